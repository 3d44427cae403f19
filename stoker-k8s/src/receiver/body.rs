//! Taking a body in, within bounds.

use std::sync::Arc;

use axum::body::BodyDataStream;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::parse::Format;
use super::{Answer, Settings};

/// The unit in which the buffer is shared out.
const CHUNK: usize = 16 << 10;

/// The memory that all deliveries share.
pub(super) struct Buffer {
    free: Arc<Semaphore>,
    max_body_bytes: usize,
    read_timeout: std::time::Duration,
}

/// A body; its share of the memory returns when it is dropped.
#[derive(Debug)]
pub(super) struct Received {
    bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl Received {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buffer {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            free: Arc::new(Semaphore::new(settings.max_buffered_bytes.div_ceil(CHUNK))),
            max_body_bytes: settings.max_body_bytes,
            read_timeout: settings.read_timeout,
        }
    }

    /// Reads a body to its end. One that is too large is refused, never cut.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: &mut BodyDataStream,
    ) -> Result<Received, Answer> {
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > self.max_body_bytes as u64) {
            return Err(self.too_large());
        }
        timeout(self.read_timeout, self.collect(body)).await.unwrap_or_else(|_| {
            Err(Answer::invalid(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive".to_owned()))
        })
    }

    /// Takes what is left of a refused body, keeping nothing, as long and as large as a taken one may be.
    ///
    /// A connection that is closed on a sender that still writes is reset, and the sender may not see the answer.
    pub(super) async fn discard(&self, headers: &HeaderMap, body: &mut BodyDataStream, arrived: Instant) {
        // One that waits to be told to go on sees the answer first.
        if headers.contains_key(EXPECT) {
            return;
        }
        let rest = async {
            let mut taken = 0;
            while taken <= self.max_body_bytes
                && let Some(Ok(chunk)) = body.next().await
            {
                taken += chunk.len();
            }
        };
        let _ = timeout_at(arrived + self.read_timeout, rest).await;
    }

    async fn collect(&self, body: &mut BodyDataStream) -> Result<Received, Answer> {
        let mut received = Received { bytes: Vec::new(), _share: None };
        let mut shared = 0;
        while let Some(chunk) = body.next().await {
            let Ok(chunk) = chunk else {
                let reason = "the body ended before its end".to_owned();
                return Err(Answer::invalid(StatusCode::BAD_REQUEST, reason));
            };
            let length = received.bytes.len() + chunk.len();
            if length > self.max_body_bytes {
                return Err(self.too_large());
            }
            if length > shared {
                // A vector doubles, so this asks for what it will really take.
                let target = length.next_power_of_two().min(self.max_body_bytes).max(CHUNK);
                let more = u32::try_from((target - shared).div_ceil(CHUNK)).unwrap_or(u32::MAX);
                let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(more) else {
                    return Err(Answer::unavailable("too many large deliveries at once"));
                };
                match &mut received._share {
                    Some(share) => share.merge(permit),
                    none => *none = Some(permit),
                }
                received.bytes.reserve_exact(target - received.bytes.len());
                shared = target;
            }
            received.bytes.extend_from_slice(&chunk);
        }
        Ok(received)
    }

    fn too_large(&self) -> Answer {
        let reason = format!("the body is larger than {} bytes", self.max_body_bytes);
        Answer::invalid(StatusCode::PAYLOAD_TOO_LARGE, reason)
    }
}

/// How the body is written, by its headers.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Answer> {
    let unsupported = |reason: &str| Answer::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason.to_owned());
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    if encoding.is_some_and(|encoding| encoding != b"identity") {
        return Err(unsupported("compressed deliveries are not taken"));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Format::Json) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    match media.trim().to_ascii_lowercase().as_str() {
        "application/json" | "" => Ok(Format::Json),
        "application/x-www-form-urlencoded" => Ok(Format::Form),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(Format::Json),
        _ => Err(unsupported("send application/json")),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};

    use super::*;

    fn buffer(max_body_bytes: usize, max_buffered_bytes: usize) -> Buffer {
        Buffer::new(&Settings { max_body_bytes, max_buffered_bytes, ..Settings::default() })
    }

    fn chunks(count: usize, length: usize) -> BodyDataStream {
        let chunk = Bytes::from(vec![b'x'; length]);
        let chunks = futures::stream::iter(vec![chunk; count]).map(Ok::<_, std::io::Error>);
        Body::from_stream(chunks).into_data_stream()
    }

    #[tokio::test]
    async fn a_body_is_whole_or_refused() {
        let (buffer, none) = (buffer(100_000, 1 << 20), HeaderMap::new());
        let whole = buffer.read(&none, &mut chunks(10, 10_000)).await.unwrap();
        assert_eq!(whole.bytes().len(), 100_000);
        assert!(whole.bytes.capacity() <= 100_000 + CHUNK, "{}", whole.bytes.capacity());
        let refused = buffer.read(&none, &mut chunks(10, 10_001)).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let announced = [(CONTENT_LENGTH, "100001".parse().unwrap())].into_iter().collect();
        let refused = buffer.read(&announced, &mut chunks(0, 0)).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn all_bodies_together_stay_within_the_memory() {
        let (buffer, none) = (buffer(1 << 20, 2 << 20), HeaderMap::new());
        let first = buffer.read(&none, &mut chunks(16, 65_536)).await.unwrap();
        let second = buffer.read(&none, &mut chunks(16, 65_536)).await.unwrap();
        let third = buffer.read(&none, &mut chunks(1, 10)).await.unwrap_err();
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop((first, second));
        assert!(buffer.read(&none, &mut chunks(1, 10)).await.is_ok());
        assert_eq!(buffer.free.available_permits(), (2 << 20) / CHUNK);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_ends() {
        let mut buffer = buffer(1000, 1000);
        buffer.read_timeout = std::time::Duration::from_millis(20);
        let pending = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let mut endless = pending.into_data_stream();
        let refused = buffer.read(&HeaderMap::new(), &mut endless).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
        buffer.discard(&HeaderMap::new(), &mut endless, Instant::now()).await;
    }

    #[tokio::test]
    async fn what_is_left_of_a_refused_body_is_taken_within_the_same_bounds() {
        let (buffer, none) = (buffer(100_000, 1 << 20), HeaderMap::new());
        for (count, left) in [(20, 0), (40, 18)] {
            let mut body = chunks(count, 10_000);
            buffer.read(&none, &mut body).await.unwrap_err();
            buffer.discard(&none, &mut body, Instant::now()).await;
            assert_eq!(body.count().await, left);
        }
        let (mut body, waits) = (chunks(3, 1), [(EXPECT, "100-continue".parse().unwrap())]);
        buffer.discard(&waits.into_iter().collect(), &mut body, Instant::now()).await;
        assert_eq!(body.count().await, 3);
    }

    #[test]
    fn only_json_and_forms_are_taken_and_nothing_compressed() {
        let with = |name: axum::http::HeaderName, value: &str| {
            [(name, value.parse().unwrap())].into_iter().collect()
        };
        assert_eq!(format(&HeaderMap::new()).unwrap(), Format::Json);
        assert_eq!(format(&with(CONTENT_TYPE, "application/json; charset=utf-8")).unwrap(), Format::Json);
        assert_eq!(format(&with(CONTENT_TYPE, "application/cloudevents+json")).unwrap(), Format::Json);
        assert_eq!(format(&with(CONTENT_TYPE, "application/x-www-form-urlencoded")).unwrap(), Format::Form);
        for bad in
            [with(CONTENT_TYPE, "text/xml"), with(CONTENT_ENCODING, "gzip"), with(CONTENT_ENCODING, "br")]
        {
            assert_eq!(format(&bad).unwrap_err().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
    }
}
