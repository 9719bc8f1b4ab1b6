//! One connection, and what is known of it.
//!
//! hyper tells that a request failed, and not how far it had come. So a connection keeps count itself,
//! above TLS, and hyper hands the record to who sends over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes that may come before an answer is complete, whatever they are: more are no answer but a flood,
/// of interim answers (1xx) or of frames that mean nothing. Over HTTP/2 as many answers as a connection
/// carries at a time come between each other, of up to 16 KiB each.
const MOST_HEARD: u64 = 2 * 1_024 * 1_024;

/// What is known of one connection.
#[derive(Clone, Debug, Default)]
pub(in crate::courier) struct Line(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Bytes that have come.
    heard: AtomicU64,
    /// How many of them had come when the latest answer was complete; none before the first.
    answered: AtomicU64,
    /// Whether something waits to be written that the other side does not take.
    is_blocked: AtomicBool,
}

impl Line {
    /// An answer is complete.
    pub(in crate::courier) fn answered(&self) {
        self.0.answered.store(self.0.heard.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether an answer came over it before.
    pub(in crate::courier) fn is_used(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed) > 0
    }

    /// Whether anything came since the latest answer was complete.
    pub(in crate::courier) fn has_heard_more(&self) -> bool {
        self.unanswered() > 0
    }

    fn unanswered(&self) -> u64 {
        let answered = self.0.answered.load(Ordering::Relaxed);
        self.0.heard.load(Ordering::Relaxed).saturating_sub(answered)
    }

    pub(in crate::courier) fn is_blocked(&self) -> bool {
        self.0.is_blocked.load(Ordering::Relaxed)
    }
}

/// A connection that keeps its record, and ends where the other side floods it, or takes nothing for
/// long.
///
/// Without the latter end, what hyper has left to say on a connection that is done with (a reset of HTTP/2,
/// a farewell of TLS) would hold it open for as long as a receiver pleases.
pub(in crate::courier) struct Watched<S> {
    stream: S,
    line: Line,
    patience: Duration,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, line: Line::default(), patience, blocked: None }
    }

    /// Notes whether the other side takes what is written.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.line.0.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let patience = self.patience;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(blocked.as_mut().poll(context));
        self.blocked = None;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let more = buffer.filled().len().saturating_sub(before);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.line.0.heard.fetch_add(more, Ordering::Relaxed);
        if self.line.unanswered() > MOST_HEARD {
            let flood = "too much came before an answer was complete";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, flood)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(context, shut)
    }
}

impl<S: Connection> Connection for Watched<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.line.clone())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_comes_is_counted_from_one_answer_to_the_next() {
        let (near, mut far) = duplex(64);
        let mut watched = Watched::new(near, PATIENCE);
        let line = watched.line.clone();
        assert!(!line.is_used() && !line.has_heard_more());
        let mut buffer = [0; 4];
        for _ in 0..2 {
            far.write_all(b"1234").await.unwrap();
            watched.read_exact(&mut buffer).await.unwrap();
            assert!(line.has_heard_more());
            line.answered();
            assert!(line.is_used() && !line.has_heard_more());
        }
    }

    #[tokio::test]
    async fn so_much_may_come_before_an_answer_is_complete_and_not_one_byte_more() {
        let (near, mut far) = duplex(1_024);
        let mut watched = Watched::new(near, PATIENCE);
        let line = watched.line.clone();
        let most = usize::try_from(MOST_HEARD).unwrap();
        let speaking = async {
            far.write_all(&vec![0; 2 * most]).await.unwrap();
            far.write_all(&[0]).await.unwrap();
        };
        let hearing = async {
            let mut all = vec![0; most];
            watched.read_exact(&mut all).await.unwrap();
            line.answered();
            watched.read_exact(&mut all).await.unwrap();
            watched.read_u8().await.unwrap_err()
        };
        let ((), error) = tokio::join!(speaking, hearing);
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_long_is_hung_up_on_and_who_takes_a_little_is_not() {
        let (near, mut far) = duplex(16);
        let mut watched = Watched::new(near, PATIENCE);
        let line = watched.line.clone();
        let slowly = async {
            for _ in 0..4 {
                tokio::time::sleep(PATIENCE.mul_f32(0.9)).await;
                assert!(line.is_blocked());
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
            Instant::now()
        };
        let (since, error) = tokio::join!(slowly, async {
            watched.write_all(&[0; 16 * 5]).await.unwrap();
            assert!(!line.is_blocked());
            let error = watched.write_u8(0).await.unwrap_err();
            (error.kind(), Instant::now())
        });
        assert_eq!(error.0, io::ErrorKind::TimedOut);
        assert_eq!(error.1 - since, PATIENCE);
    }
}
