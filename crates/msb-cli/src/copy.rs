//! `msb cp`: files and trees between this host and a running sandbox.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use msb::{Copied, Sandboxes};

use crate::report;

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// In the sandbox, copy as this user: what is copied in belongs to them. Default: root.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// What to copy, as a path here or NAME:PATH in a sandbox; a directory with all that is in it, DIR/. without itself.
    from: String,

    /// Where to: into it if it is a directory, else to that name. A path here with a colon in it needs a slash before that.
    to: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    In { sandbox: String, path: String },
}

impl End {
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') => Self::In {
                sandbox: name.to_owned(),
                path: path.to_owned(),
            },
            _ => Self::Here(text.into()),
        }
    }
}

pub(crate) async fn copy(args: Copy) -> Result<u8> {
    let ends = (End::parse(&args.from), End::parse(&args.to));
    let (sandbox, other) = match &ends {
        (End::Here(_), End::In { sandbox, .. }) | (End::In { sandbox, .. }, End::Here(_)) => {
            (sandbox, &ends)
        }
        (End::Here(_), End::Here(_)) => {
            bail!("both paths are of this host: write NAME:PATH for the one in a sandbox")
        }
        (End::In { .. }, End::In { .. }) => {
            bail!("both paths are in sandboxes: copy to this host, and from there")
        }
    };
    let sandbox = Sandboxes::open_default()?.connect(sandbox).await?;
    let mut files = sandbox.fs();
    if let Some(user) = args.user {
        files = files.user(user);
    }
    let copied = match other {
        (End::Here(from), End::In { path, .. }) => files.copy_in(from, absolute(path)?).await,
        (End::In { path, .. }, End::Here(to)) => files.copy_out(absolute(path)?, to).await,
        // Refused above.
        _ => return Ok(0),
    };
    let copied = copied.with_context(|| format!("cannot copy {} to {}", args.from, args.to))?;
    tell_skipped(&copied);
    Ok(0)
}

fn absolute(path: &str) -> Result<&str> {
    if !path.starts_with('/') {
        bail!("{path:?}: in the sandbox it needs an absolute path, such as /root/{path}");
    }
    Ok(path)
}

fn tell_skipped(copied: &Copied) {
    if copied.skipped > 0 {
        // The guest's words: quoted, so that they cannot drive a terminal.
        let names = copied.skipped_names.iter().map(|name| format!("{name:?}"));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = match copied.skipped > copied.skipped_names.len() as u64 {
            true => ", ...",
            false => "",
        };
        let count = copied.skipped;
        report::note(&format!(
            "{count} left out, neither files, directories nor links: {names}{more}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_in_a_sandbox_if_a_name_stands_before_its_first_colon() {
        let within = |sandbox: &str, path: &str| End::In {
            sandbox: sandbox.into(),
            path: path.into(),
        };
        for (text, expected) in [
            ("box:/etc", within("box", "/etc")),
            ("box:/a:b", within("box", "/a:b")),
            ("box:", within("box", "")),
            ("file", End::Here("file".into())),
            ("./a:b", End::Here("./a:b".into())),
            ("/tmp/a:b", End::Here("/tmp/a:b".into())),
            (":x", End::Here(":x".into())),
        ] {
            assert_eq!(End::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_in_a_sandbox_is_absolute() {
        assert_eq!(absolute("/etc").unwrap(), "/etc");
        let error = absolute("work").unwrap_err().to_string();
        assert!(error.contains("/root/work"), "{error}");
    }
}
