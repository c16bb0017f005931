//! Globs over canonical paths: `*` within a segment, `**` over segments.

use std::fmt;

use super::path::{AmbiguousPath, CanonicalPath};

/// A pattern of paths.
///
/// `*` stands for any characters of one segment, and for at least one where it is the whole segment. `**`, always a whole
/// segment, stands for any number of segments in the middle, and for at least one at the end: `/repos/**` is everything
/// below `/repos/`, `/repos/` itself included, but not `/repos`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PathGlob {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    /// `**`.
    Any,
    /// The texts between stars: one without a star.
    Stars(Vec<String>),
}

/// What is wrong with a glob, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GlobFault {
    /// `**` beside other text.
    PartOfSegment,
    /// It would never match, for no path is spelt so.
    Never(AmbiguousPath),
}

impl PathGlob {
    /// Every path.
    pub(super) fn all() -> Self {
        Self {
            segments: vec![Segment::Any],
        }
    }

    /// Parses a glob that begins with `/`.
    pub(super) fn parse(text: &str) -> Result<Self, GlobFault> {
        let canonical = CanonicalPath::parse_glob(text).map_err(GlobFault::Never)?;
        if text.contains('?') {
            // It would end the path, and with it the glob.
            return Err(GlobFault::Never(AmbiguousPath::BadCharacter));
        }
        let segments = canonical.segments().map(|segment| match segment {
            "**" => Ok(Segment::Any),
            _ if segment.contains("**") => Err(GlobFault::PartOfSegment),
            _ => Ok(Segment::Stars(
                segment.split('*').map(str::to_owned).collect(),
            )),
        });
        Ok(Self {
            segments: segments.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn matches(&self, path: &CanonicalPath) -> bool {
        let path: Vec<&str> = path.segments().collect();
        let (mut glob_at, mut path_at) = (0, 0);
        // Where the last `**` stands, and the first segment that it does not hold yet.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let is_last = glob_at + 1 == self.segments.len();
            match (self.segments.get(glob_at), path.get(path_at)) {
                (Some(Segment::Any), Some(_)) if is_last => return true,
                (Some(Segment::Any), _) if !is_last => {
                    retry = Some((glob_at, path_at));
                    glob_at += 1;
                }
                (Some(Segment::Stars(texts)), Some(segment)) if matches(texts, segment) => {
                    glob_at += 1;
                    path_at += 1;
                }
                (None, None) => return true,
                _ => {
                    // What an earlier `**` could hold more, the last can hold as well.
                    let Some((any_at, next)) = retry.filter(|(_, next)| *next < path.len()) else {
                        return false;
                    };
                    retry = Some((any_at, next + 1));
                    (glob_at, path_at) = (any_at + 1, next + 1);
                }
            }
        }
    }
}

/// Whether the texts stand in the segment one after another, the first at its beginning and the last at its end.
fn matches(texts: &[String], segment: &str) -> bool {
    let [first, middle @ .., last] = texts else {
        return texts.first().is_some_and(|only| only == segment);
    };
    if texts.iter().all(String::is_empty) {
        return !segment.is_empty();
    }
    let inner = segment.strip_prefix(first.as_str());
    let Some(mut inner) = inner.and_then(|rest| rest.strip_suffix(last.as_str())) else {
        return false;
    };
    for text in middle {
        match inner.find(text.as_str()) {
            Some(at) => inner = &inner[at + text.len()..],
            None => return false,
        }
    }
    true
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Any => f.write_str("/**")?,
                Segment::Stars(texts) => write!(f, "/{}", texts.join("*"))?,
            }
        }
        Ok(())
    }
}
