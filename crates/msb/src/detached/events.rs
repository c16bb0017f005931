//! The file of events: one thread writes it, so that a slow disk holds up no connection.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crate::{Error, Event};

/// How many lines may wait for the disk; those beyond are counted, and the count is written.
const MAX_WAITING: usize = 16 * 1024;

enum Message {
    Line(String),
    End,
}

/// Writes events to a file, one JSON object a line, until it is dropped.
#[derive(Debug)]
pub struct EventFile {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

/// Hands events to an [`EventFile`]; it never blocks.
#[derive(Clone, Debug)]
pub struct EventWriter {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl EventFile {
    /// Opens the file for appending, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let started = file.and_then(|file| Self::start(file, path.display().to_string()));
        started.map_err(|error| Error::Config(format!("cannot write {}: {error}", path.display())))
    }

    fn start(file: File, name: String) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let writer = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || drive(file, &receiver, &counted, &name))?;
        Ok(Self {
            sender,
            lost,
            writer: Some(writer),
        })
    }

    /// What hands events to it.
    #[must_use]
    pub fn writer(&self) -> EventWriter {
        EventWriter {
            sender: self.sender.clone(),
            lost: Arc::clone(&self.lost),
        }
    }
}

impl Drop for EventFile {
    fn drop(&mut self) {
        // Fails only when the thread is gone.
        let _ = self.sender.send(Message::End);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl EventWriter {
    /// Has an event written, unless too many wait for the disk: those are counted, and the count is written.
    pub fn write(&self, event: &Event) {
        let line = event.to_json(SystemTime::now());
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(line)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn drive(mut file: File, receiver: &Receiver<Message>, lost: &AtomicU64, name: &str) {
    let mut is_failing = false;
    while let Ok(Message::Line(mut line)) = receiver.recv() {
        line.push('\n');
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let text = format!("{count} events were lost: {name} is written too slowly");
            line.insert_str(0, &(Event::Warning(text).to_json(SystemTime::now()) + "\n"));
        }
        // In one piece, so that several processes may append to one file.
        let written = file.write_all(line.as_bytes());
        if let Err(error) = &written
            && !is_failing
        {
            tracing::error!("events are lost: cannot write {name}: {error}");
        }
        is_failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_in_order_and_all_are_there_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        std::fs::write(&path, "before\n").expect("written");
        let file = EventFile::open(&path).expect("opened");
        for number in 0..1000 {
            file.writer().write(&Event::Warning(number.to_string()));
        }
        let writer = file.writer();
        drop(file);
        writer.write(&Event::Warning("too late".to_owned()));
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1001);
        assert_eq!(lines[0], "before");
        for (number, line) in lines[1..].iter().enumerate() {
            assert!(
                line.ends_with(&format!("\"reason\":\"{number}\"}}")),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_lost_is_counted_in_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events");
        let file = EventFile::open(&path).expect("opened");
        file.lost.store(7, Ordering::Relaxed);
        file.writer().write(&Event::Warning("next".to_owned()));
        drop(file);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            text.lines()
                .next()
                .expect("a line")
                .contains("7 events were lost"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2);
    }
}
