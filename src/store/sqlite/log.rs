//! Whether the write-ahead log that a process has left is whole, by its format:
//! <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::OpenError;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// With the lowest bit set, words are summed up in big-endian order.
const MAGIC: u32 = 0x377f_0682;

/// Refuses a log of which SQLite would drop more than what may be torn off.
///
/// SQLite takes a log up to the first frame that is not right, and drops the rest without a word.
/// A crash can do that to the last commit, which nobody was told of: each is on disk before the
/// next begins. So where a second commit lies behind the first wrong frame, it is not a crash that
/// did it, and operations that were accepted would be gone. What is wrong within the very last
/// commit cannot be told from what a crash does.
pub(super) fn check(log: &Path) -> Result<(), OpenError> {
    let unreadable = |source| OpenError::Inaccessible { path: log.to_owned(), source };
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    let found = match dropped(BufReader::new(file)).map_err(unreadable)? {
        Dropped::Nothing | Dropped::Commits(0 | 1) => return Ok(()),
        Dropped::Commits(commits) => format!("{commits} commits in its log cannot be read"),
        Dropped::All => "its log has lost its beginning".to_owned(),
    };
    Err(OpenError::Damaged { found })
}

/// What SQLite would not take.
enum Dropped {
    Nothing,
    /// So many commits, and perhaps the beginning of another.
    Commits(u32),
    /// What the log says of itself is not right, and there is something behind it.
    All,
}

fn dropped(mut log: impl Read) -> io::Result<Dropped> {
    let Some(header) = next(&mut log, HEADER)? else { return Ok(Dropped::Nothing) };
    let mut sum = Sum { big_endian: word(&header, 0) & 1 == 1, state: (0, 0) };
    sum.add(&header[..24]);
    let is_right = word(&header, 0) & !1 == MAGIC && sum.is(&header[24..]);
    if !is_right {
        return Ok(next(&mut log, 1)?.map_or(Dropped::Nothing, |_| Dropped::All));
    }
    let (page_size, salts) = (word(&header, 8) as usize, &header[16..24]);
    let (mut is_right, mut commits) = (true, 0);
    while let Some(frame) = next(&mut log, FRAME_HEADER + page_size)? {
        let (head, page) = frame.split_at(FRAME_HEADER);
        // Frames of before the log was begun anew have other salts.
        let is_of_this_log = head[8..16] == *salts;
        if is_right {
            sum.add(&head[..8]);
            sum.add(page);
            is_right = is_of_this_log && sum.is(&head[16..]);
        }
        let ends_a_commit = word(head, 4) != 0;
        if !is_right && is_of_this_log && ends_a_commit {
            commits += 1;
        }
    }
    Ok(if is_right { Dropped::Nothing } else { Dropped::Commits(commits) })
}

/// The next bytes, if there are so many.
fn next(log: &mut impl Read, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length];
    match log.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The running sum that each frame ends with.
struct Sum {
    big_endian: bool,
    state: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |bytes: [u8; 4]| {
            if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let (pairs, _) = words.as_chunks::<2>();
        for &[first, second] in pairs {
            self.state.0 = self.state.0.wrapping_add(word(first)).wrapping_add(self.state.1);
            self.state.1 = self.state.1.wrapping_add(word(second)).wrapping_add(self.state.0);
        }
    }

    fn is(&self, written: &[u8]) -> bool {
        self.state == (word(written, 0), word(written, 4))
    }
}

/// Big-endian, as all numbers of a log are.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
