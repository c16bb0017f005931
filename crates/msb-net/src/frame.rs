//! Ethernet frames on a byte stream: a 4-byte big-endian length before each frame (QEMU's stream
//! framing, which passt and libkrun use too). Links that carry one frame at a time use the same buffers.
//! Buffers only; reading and writing sockets is `io`'s work.

/// Bytes of the length in front of each frame.
pub(crate) const PREFIX_LEN: usize = 4;
/// Bytes of an Ethernet header without a VLAN tag.
pub(crate) const ETHERNET_HEADER_LEN: usize = 14;
/// Longest frame taken: the largest IP packet, an Ethernet header and a VLAN tag. Longer ones are skipped.
pub(crate) const MAX_FRAME_LEN: usize = 65_535 + ETHERNET_HEADER_LEN + 4;

/// Bytes asked for in one read: four of the longest frames.
const READ_LEN: usize = 256 * 1024;
/// Queued output from which on flows send nothing new (answers to single frames still fit in). Two of the longest frames: what
/// waits longer has left the processor's cache when it is written, and the kernel takes no more from a socket at once.
const WRITE_HIGH_WATER: usize = 128 * 1024;

/// Cuts a byte stream into frames.
///
/// Call [`space`](Self::space) and [`filled`](Self::filled) to add bytes, then [`next_frame`](Self::next_frame)
/// until it yields nothing.
#[derive(Debug)]
pub(crate) struct FrameReader {
    /// Always `READ_LEN + PREFIX_LEN + MAX_FRAME_LEN` bytes; zeroed by the allocator, so untouched parts cost nothing.
    buffer: Vec<u8>,
    /// Unread bytes are `buffer[start..end]`; 0 <= start <= end <= buffer.len().
    start: usize,
    end: usize,
    /// Bytes of an overlong frame still to be thrown away.
    skip: usize,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; READ_LEN + PREFIX_LEN + MAX_FRAME_LEN],
            start: 0,
            end: 0,
            skip: 0,
        }
    }

    /// Room for more bytes: never empty once `next_frame` has yielded nothing.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buffer.len() - self.end < READ_LEN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Tells that the first `len` bytes of [`space`](Self::space) now hold input.
    pub(crate) fn filled(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end + len);
    }

    /// Room for a frame of a link that carries one at a time; `None`: take the frames there are first.
    ///
    /// It is one octet longer than the longest frame, so that a longer one shows.
    pub(crate) fn packet_space(&mut self) -> Option<&mut [u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let frame_start = self.end + PREFIX_LEN;
        self.buffer
            .get_mut(frame_start..=frame_start + MAX_FRAME_LEN)
    }

    /// Tells that the first `len` bytes of [`packet_space`](Self::packet_space) now hold a frame.
    pub(crate) fn filled_packet(&mut self, len: usize) {
        if len > MAX_FRAME_LEN {
            tracing::debug!("an overlong frame is skipped");
            return;
        }
        let frame_start = self.end + PREFIX_LEN;
        let prefix = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        self.buffer[self.end..frame_start].copy_from_slice(&prefix);
        self.end = frame_start + len;
    }

    /// The next whole frame, without its length; `None`: more bytes are needed.
    pub(crate) fn next_frame(&mut self) -> Option<&[u8]> {
        loop {
            let skipped = self.skip.min(self.end - self.start);
            self.start += skipped;
            self.skip -= skipped;
            let unread = &self.buffer[self.start..self.end];
            let (prefix, rest) = unread.split_first_chunk::<PREFIX_LEN>()?;
            let len = u32::from_be_bytes(*prefix) as usize;
            if len > MAX_FRAME_LEN {
                tracing::debug!(len, "an overlong frame is skipped");
                self.start += PREFIX_LEN;
                self.skip = len;
                continue;
            }
            if rest.len() < len {
                return None;
            }
            let frame_start = self.start + PREFIX_LEN;
            self.start = frame_start + len;
            return Some(&self.buffer[frame_start..frame_start + len]);
        }
    }
}

/// Frames waiting to be written, as the bytes that go on the stream.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    /// Initialised once and written over, so that a frame costs no zeroing.
    buffer: Vec<u8>,
    /// Unwritten bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Bytes and frames that flows may append.
    allowance: (i64, i64),
    /// Bytes and frames that were appended under it, by answers to single frames as well, which do not ask.
    appended: (i64, i64),
}

impl FrameWriter {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; WRITE_HIGH_WATER + 2 * (PREFIX_LEN + MAX_FRAME_LEN)],
            start: 0,
            end: 0,
            allowance: (i64::MAX, i64::MAX),
            appended: (0, 0),
        }
    }

    /// Lets flows append so many bytes and frames from now on.
    pub(crate) fn allow(&mut self, allowance: (i64, i64)) {
        self.allowance = allowance;
        self.appended = (0, 0);
    }

    /// Bytes and frames that were appended since the last call of [`allow`](Self::allow).
    pub(crate) fn appended(&self) -> (i64, i64) {
        self.appended
    }

    /// Appends a frame of `len` bytes that `fill` writes.
    ///
    /// The slice holds old bytes: `fill` must write all of it. `len` is at most [`MAX_FRAME_LEN`].
    pub(crate) fn push<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        debug_assert!(len <= MAX_FRAME_LEN, "frame of {len} bytes");
        let frame_start = self.end + PREFIX_LEN;
        let frame_end = frame_start + len;
        if self.buffer.len() < frame_end {
            self.buffer.resize(frame_end.next_power_of_two(), 0);
        }
        let prefix = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        self.buffer[self.end..frame_start].copy_from_slice(&prefix);
        self.end = frame_end;
        self.appended.0 += i64::try_from(len).unwrap_or(0);
        self.appended.1 += 1;
        fill(&mut self.buffer[frame_start..frame_end])
    }

    /// Bytes to write to the stream next.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Tells that the first `len` bytes of [`pending`](Self::pending) are written.
    pub(crate) fn written(&mut self, len: usize) {
        self.start = self.end.min(self.start + len);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start >= WRITE_HIGH_WATER {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The first frame of what is to be written, for a link that carries one at a time.
    pub(crate) fn next_frame(&self) -> Option<&[u8]> {
        let (prefix, rest) = self.pending().split_first_chunk::<PREFIX_LEN>()?;
        rest.get(..u32::from_be_bytes(*prefix) as usize)
    }

    /// Tells that [`next_frame`](Self::next_frame) is written.
    pub(crate) fn written_frame(&mut self) {
        let len = self.next_frame().map_or(0, <[u8]>::len);
        self.written(PREFIX_LEN + len);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether flows may append something.
    pub(crate) fn has_room(&self) -> bool {
        let (allowed, appended) = (self.allowance, self.appended);
        !self.is_full() && allowed.0 > appended.0 && allowed.1 > appended.1
    }

    /// Whether flows should wait until the guest has read some of what is queued.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start >= WRITE_HIGH_WATER
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(reader: &mut FrameReader, mut bytes: &[u8], out: &mut Vec<Vec<u8>>) {
        while !bytes.is_empty() {
            let space = reader.space();
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            reader.filled(len);
            bytes = &bytes[len..];
            while let Some(frame) = reader.next_frame() {
                out.push(frame.to_vec());
            }
        }
    }

    #[test]
    fn an_overlong_frame_is_skipped_and_the_next_is_found() {
        let overlong = MAX_FRAME_LEN + 1;
        let mut bytes = u32::try_from(overlong).unwrap().to_be_bytes().to_vec();
        bytes.extend(vec![7; overlong]);
        bytes.extend([0, 0, 0, 2, 5, 6]);
        let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
        feed(&mut reader, &bytes, &mut frames);
        assert_eq!(frames, [vec![5, 6]]);
    }

    #[test]
    fn a_writer_never_read_reports_full_and_keeps_every_byte() {
        let mut writer = FrameWriter::new();
        let mut frames = 0;
        while !writer.is_full() {
            writer.push(60_000, |frame| frame.fill(3));
            frames += 1;
        }
        assert_eq!(writer.pending().len(), frames * (PREFIX_LEN + 60_000));
        let len = writer.pending().len();
        writer.written(len);
        assert!(writer.is_empty() && !writer.is_full());
    }

    #[test]
    fn packets_become_frames_and_an_overlong_one_is_skipped() {
        let mut reader = FrameReader::new();
        for (byte, len) in [(1, 1), (2, MAX_FRAME_LEN + 1), (3, MAX_FRAME_LEN), (4, 0)] {
            reader.packet_space().unwrap()[..len].fill(byte);
            reader.filled_packet(len);
        }
        for (byte, len) in [(1, 1), (3, MAX_FRAME_LEN), (4, 0)] {
            assert!(reader.next_frame() == Some(&vec![byte; len]), "{byte}");
        }
        assert_eq!(reader.next_frame(), None);
    }

    #[test]
    fn packets_that_are_not_taken_end_the_room_for_more() {
        let mut reader = FrameReader::new();
        let mut packets = 0;
        while let Some(space) = reader.packet_space() {
            assert_eq!(space.len(), MAX_FRAME_LEN + 1);
            reader.filled_packet(MAX_FRAME_LEN);
            packets += 1;
        }
        assert!((1..10).contains(&packets), "{packets}");
        while reader.next_frame().is_some() {}
        assert!(reader.packet_space().is_some());
    }

    #[test]
    fn frames_are_written_one_by_one() {
        let mut writer = FrameWriter::new();
        for (byte, len) in [(5_u8, 3), (6, 0), (7, 60_000)] {
            writer.push(len, |frame| frame.fill(byte));
        }
        for (byte, len) in [(5_u8, 3), (6, 0), (7, 60_000)] {
            assert!(writer.next_frame() == Some(&vec![byte; len]), "{byte}");
            writer.written_frame();
        }
        assert_eq!(writer.next_frame(), None);
    }

    proptest! {
        #[test]
        fn frames_survive_any_split_of_the_stream(
            lens in proptest::collection::vec(0_usize..70_000, 1..12),
            cuts in proptest::collection::vec(1_usize..100_000, 1..20),
        ) {
            let mut writer = FrameWriter::new();
            let mut sent = Vec::new();
            for (index, len) in lens.into_iter().enumerate() {
                let len = len.min(MAX_FRAME_LEN);
                let byte = u8::try_from(index).unwrap();
                writer.push(len, |frame| frame.fill(byte));
                sent.push(vec![byte; len]);
            }
            let (mut reader, mut received) = (FrameReader::new(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !writer.is_empty() {
                let len = cuts.next().unwrap().min(writer.pending().len());
                let chunk = writer.pending()[..len].to_vec();
                writer.written(len);
                feed(&mut reader, &chunk, &mut received);
            }
            prop_assert_eq!(received, sent);
        }
    }
}
