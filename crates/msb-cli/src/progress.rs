//! How a pull goes, on standard error: bars on a terminal, a line for each step elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use msb::image::{PullEvent, Sink};

use crate::report;

/// Where the events of one pull go.
pub(crate) struct Progress {
    shown: Arc<Mutex<Shown>>,
}

enum Shown {
    Bars {
        all: MultiProgress,
        layers: Vec<ProgressBar>,
        building: Option<ProgressBar>,
    },
    /// Bytes of each layer, and whether its end was told.
    Lines(Vec<(u64, bool)>),
}

impl Progress {
    pub(crate) fn new() -> Self {
        let shown = match std::io::stderr().is_terminal() {
            true => Shown::Bars {
                all: MultiProgress::new(),
                layers: Vec::new(),
                building: None,
            },
            false => Shown::Lines(Vec::new()),
        };
        Self {
            shown: Arc::new(Mutex::new(shown)),
        }
    }

    pub(crate) fn sink(&self) -> Sink {
        let shown = Arc::clone(&self.shown);
        Arc::new(move |event| {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.take(event);
        })
    }

    /// Takes bars off the terminal.
    pub(crate) fn finish(&self) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Shown::Bars {
            all,
            layers,
            building,
        } = &*shown
        {
            layers
                .iter()
                .chain(building)
                .for_each(ProgressBar::finish_and_clear);
            // A terminal that is gone needs no clearing.
            let _ = all.clear();
        }
    }
}

impl Shown {
    fn take(&mut self, event: &PullEvent) {
        if let Some(line) = line(event) {
            match self {
                Self::Bars { all, .. } => all.suspend(|| report::note(&line)),
                Self::Lines(_) => report::note(&line),
            }
        }
        match self {
            Self::Bars {
                all,
                layers,
                building,
            } => match event {
                PullEvent::Layers(sizes) => {
                    let bars = sizes.iter().enumerate();
                    let bars = bars.map(|(at, size)| all.add(bar(at, sizes.len(), *size)));
                    *layers = bars.collect();
                }
                PullEvent::Received { layer, bytes } => {
                    if let Some(bar) = layers.get(*layer) {
                        bar.set_position(*bytes);
                    }
                }
                PullEvent::Building => {
                    layers.iter().for_each(ProgressBar::finish_and_clear);
                    let spinner = all.add(ProgressBar::new_spinner());
                    spinner.set_message("making the root disk");
                    spinner.enable_steady_tick(std::time::Duration::from_millis(200));
                    *building = Some(spinner);
                }
                _ => {}
            },
            Self::Lines(layers) => match event {
                PullEvent::Layers(sizes) => {
                    *layers = sizes.iter().map(|size| (*size, false)).collect();
                }
                PullEvent::Received { layer, bytes } => {
                    let of = layers.len();
                    if let Some((size, told @ false)) = layers.get_mut(*layer)
                        && bytes == size
                    {
                        *told = true;
                        let layer = layer + 1;
                        report::note(&format!("layer {layer} of {of}: {}", mib(*size)));
                    }
                }
                _ => {}
            },
        }
    }
}

/// What is told in words.
fn line(event: &PullEvent) -> Option<String> {
    match event {
        PullEvent::Waiting => Some("waiting for another pull of the same image".into()),
        PullEvent::Retrying { reason, wait, .. } => {
            let wait = wait.as_secs_f64();
            Some(format!("{reason}; trying again in {wait:.1} s"))
        }
        _ => None,
    }
}

fn bar(at: usize, of: usize, size: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>11} of {total_bytes:11}");
    let bar = ProgressBar::new(size);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.with_prefix(format!("layer {:>3} of {of}", at + 1))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_any_order_and_number() {
        let bars = Shown::Bars {
            all: MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()),
            layers: Vec::new(),
            building: None,
        };
        for mut shown in [bars, Shown::Lines(Vec::new())] {
            let received = |layer, bytes| PullEvent::Received { layer, bytes };
            for event in [
                received(3, 7),
                PullEvent::Building,
                PullEvent::Layers(vec![10, 0]),
                received(0, 10),
                received(0, 10),
                received(1, 0),
                received(0, 3),
                received(2, u64::MAX),
                PullEvent::Waiting,
                PullEvent::Building,
            ] {
                shown.take(&event);
            }
            if let Shown::Lines(layers) = shown {
                assert_eq!(layers, [(10, true), (0, true)]);
            }
        }
    }
}
