//! `/api/streams`: the live streams, and the end of one.

use super::error::ApiError;
use super::filter::{StreamIdentity, is};
use super::heads::Heads;
use super::time::{millis, since_1970_ms};
use super::{LoggedAction, SharedAdmin};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sse_guard::internal::Details;
use sse_guard::{Stream, StreamId, StreamState};
use tokio::time::Instant;

/// Rows of a page without `limit`.
const DEFAULT_PAGE_ROWS: usize = 100;

/// A live stream.
#[derive(Debug, Serialize)]
struct StreamRow {
    id: u64,
    state: StreamCondition,
    route: Option<String>,
    client: Option<String>,
    user: Option<String>,
    /// Of a listener with a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    upstream: Option<String>,
    method: Option<String>,
    path: Option<String>,
    family: &'static str,
    /// Since when, in milliseconds since 1970.
    opened_ms: u64,
    age_ms: f64,
    events: u64,
    events_per_second: f32,
    bytes: u64,
    heartbeats: u64,
    first_event_ms: Option<f64>,
    last_byte_ms_ago: f64,
    last_event_ms_ago: Option<f64>,
    last_event_id: Option<String>,
    gap_p99_ms: Option<f64>,
    unsent_bytes: u64,
    held_bytes: u64,
    /// In a content coding, or a range of bytes: its events are not visible.
    opaque: bool,
    #[serde(flatten)]
    more: Option<StreamDetails>,
}

/// What is shown of one stream alone.
#[derive(Debug, Serialize)]
struct StreamDetails {
    /// Whether its client reconnects when an operator ends the stream; else the transfer breaks off.
    reconnects: bool,
    dropped_bytes: u64,
    #[serde(flatten)]
    heads: Option<Heads>,
}

/// The state of a live stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamCondition {
    /// Its upstream has not responded yet.
    Connecting,
    Open,
    /// It lost its upstream and is reconnecting.
    Resuming,
    /// Like that, after several failed attempts.
    Degraded,
    /// Its client does not read pending data.
    Stalled,
    /// It is to end, at its next event boundary or at its turn in a drain.
    Ending,
}

impl StreamCondition {
    fn of(stream: &Stream) -> Self {
        match stream {
            _ if stream.is_ending() => Self::Ending,
            _ if stream.unsent_bytes() > 0 => Self::Stalled,
            _ => match stream.state() {
                StreamState::Connecting => Self::Connecting,
                StreamState::Resuming => Self::Resuming,
                StreamState::Degraded => Self::Degraded,
                // The library may add states; the table shows those that it does not know as open.
                _ => Self::Open,
            },
        }
    }
}

impl StreamRow {
    /// With the data that only `reconnects` has.
    fn with_more(stream: &Stream, reconnects: bool) -> Self {
        Self {
            more: Some(StreamDetails {
                reconnects,
                dropped_bytes: stream.dropped_bytes(),
                heads: stream.details().map(Heads::of),
            }),
            ..Self::of(stream)
        }
    }

    fn of(stream: &Stream) -> Self {
        let request = stream.details().map(Details::request);
        let age_ms = millis(stream.age());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time since 1970"
        )]
        let opened_ms = since_1970_ms().saturating_sub(age_ms as u64);
        Self {
            id: stream.id().as_u64(),
            state: StreamCondition::of(stream),
            route: stream.route().map(str::to_owned),
            client: stream.client().map(ToString::to_string),
            user: stream.user().map(str::to_owned),
            listener: stream
                .details()
                .and_then(|details| details.listener().map(str::to_owned)),
            upstream: stream.upstream().map(str::to_owned),
            method: request.as_ref().map(|request| request.method.to_string()),
            path: request.as_ref().map(|request| request.path.to_string()),
            family: stream.family().as_str(),
            opened_ms,
            age_ms,
            events: stream.events(),
            events_per_second: stream.events_per_second(),
            bytes: stream.bytes(),
            heartbeats: stream.heartbeats(),
            first_event_ms: stream.time_to_first_event().map(millis),
            last_byte_ms_ago: millis(stream.silent_since().elapsed()),
            last_event_ms_ago: stream.last_event().map(|at| millis(at.elapsed())),
            last_event_id: stream.last_event_id(),
            gap_p99_ms: stream.gap_p99().map(millis),
            unsent_bytes: stream.unsent_bytes(),
            held_bytes: stream.held_bytes(),
            opaque: stream.is_opaque(),
            more: None,
        }
    }
}

/// Filters, order and page of the stream table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StreamQuery {
    /// Text that is in one of their fields.
    q: Option<String>,
    route: Option<String>,
    client: Option<String>,
    user: Option<String>,
    upstream: Option<String>,
    family: Option<String>,
    state: Option<StreamCondition>,
    sort: SortField,
    order: SortOrder,
    offset: usize,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SortField {
    #[default]
    Id,
    Route,
    Client,
    User,
    Upstream,
    Path,
    Family,
    State,
    Age,
    Events,
    EventsPerSecond,
    Bytes,
    Heartbeats,
    LastEvent,
    Gap,
    Unsent,
    Held,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum SortOrder {
    #[default]
    Asc,
    Desc,
}

impl StreamQuery {
    fn matches(&self, stream: &Stream) -> bool {
        let identity = StreamIdentity::from(stream);
        is(&self.route, identity.route)
            && is(&self.user, identity.user)
            && is(&self.upstream, identity.upstream)
            && is(&self.family, Some(stream.family().as_str()))
            && identity.client_is(&self.client)
            && self
                .state
                .is_none_or(|state| StreamCondition::of(stream) == state)
            && identity.mention(&self.q)
    }

    /// The selected ones, in order. Sorted by a snapshot of the values: they change meanwhile, and
    /// sorting by changing values can panic.
    fn select(&self, mut streams: Vec<Stream>) -> Vec<Stream> {
        streams.retain(|stream| self.matches(stream));
        let now = Instant::now();
        streams.sort_by_cached_key(|stream| (self.key(stream, now), stream.id()));
        if self.order == SortOrder::Desc {
            streams.reverse();
        }
        streams
    }

    fn key(&self, stream: &Stream, now: Instant) -> SortKey {
        let text = |text: Option<&str>| SortKey::Text(text.map(str::to_owned));
        let ago = |at| u64::try_from(now.saturating_duration_since(at).as_nanos());
        let ago = |at| SortKey::Number(ago(at).unwrap_or(u64::MAX));
        let number = |number| SortKey::Number(number);
        match self.sort {
            SortField::Id => number(0),
            SortField::Route => text(stream.route()),
            SortField::Client => SortKey::Text(stream.client().map(ToString::to_string)),
            SortField::User => text(stream.user()),
            SortField::Upstream => text(stream.upstream()),
            SortField::Path => text(StreamIdentity::from(stream).path),
            SortField::Family => text(Some(stream.family().as_str())),
            SortField::State => number(StreamCondition::of(stream) as u64),
            SortField::Age => ago(stream.opened()),
            SortField::Events => number(stream.events()),
            // Of numbers that are not negative the bits are in the same order.
            SortField::EventsPerSecond => {
                number(stream.events_per_second().max(0.0).to_bits().into())
            }
            SortField::Bytes => number(stream.bytes()),
            SortField::Heartbeats => number(stream.heartbeats()),
            SortField::LastEvent => stream.last_event().map_or(number(u64::MAX), ago),
            SortField::Gap => {
                let gap = stream.gap_p99().unwrap_or_default().as_millis();
                number(u64::try_from(gap).unwrap_or(u64::MAX))
            }
            SortField::Unsent => number(stream.unsent_bytes()),
            SortField::Held => number(stream.held_bytes()),
        }
    }
}

/// What streams are sorted by; of one kind for all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(u64),
    Text(Option<String>),
}

pub(super) async fn list(
    State(admin): State<SharedAdmin>,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad(error.body_text()))?;
    let streams = admin.streams().streams();
    let live = streams.len();
    let streams = query.select(streams);
    let page = streams.iter().skip(query.offset);
    let page: Vec<StreamRow> = page
        .take(query.limit.unwrap_or(DEFAULT_PAGE_ROWS))
        .map(StreamRow::of)
        .collect();
    Ok(Json(json!({
        "live": live,
        "matched": streams.len(),
        "offset": query.offset,
        "streams": page,
    })))
}

fn none_such(id: u64) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("no live stream has the id {id}"),
    )
}

fn id(path: Result<Path<u64>, PathRejection>) -> Result<u64, ApiError> {
    path.map(|Path(id)| id)
        .map_err(|_| ApiError::bad("the id of a stream is a number"))
}

pub(super) async fn one(
    State(admin): State<SharedAdmin>,
    path: Result<Path<u64>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = id(path)?;
    let stream = admin.streams().stream(StreamId::from_u64(id));
    let row = stream.map(|stream| {
        let methods = rotated_methods(&admin, &stream);
        StreamRow::with_more(&stream, reconnects(&stream, methods.as_deref()))
    });
    row.map(|row| Json(json!(row))).ok_or_else(|| none_such(id))
}

/// The value of `rotation.methods` for its route.
fn rotated_methods(admin: &super::Admin, stream: &Stream) -> Option<Vec<Method>> {
    let active = admin.state.active();
    let route = stream.route()?;
    let view = active.router.views().find(|view| view.path == route)?;
    view.rotation.methods.clone()
}

/// Whether the rotation layer ends it for its client to come back.
fn reconnects(stream: &Stream, methods: Option<&[Method]>) -> bool {
    let method = stream.details().map(|details| details.request().method);
    let client_reconnects = match (methods, method) {
        (Some(methods), Some(method)) => methods.iter().any(|known| known == method),
        _ => stream.family().client_reconnects(),
    };
    client_reconnects && !stream.is_opaque()
}

pub(super) async fn end(
    State(admin): State<SharedAdmin>,
    path: Result<Path<u64>, PathRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let id = id(path)?;
    if !admin.streams().end(StreamId::from_u64(id)) {
        return Err(none_such(id));
    }
    admin.log_limits.of(LoggedAction::End).write(
        || tracing::info!(id, "the admin API ends a stream"),
        |not_logged| {
            tracing::info!(
                not_logged,
                "the admin API ended more streams than were logged"
            );
        },
    );
    Ok((StatusCode::ACCEPTED, Json(json!({ "ending": id }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_ending_a_stream_does_goes_by_the_methods_of_its_route_or_its_family() {
        use axum::http::{HeaderMap, Request};
        use sse_guard::internal::RequestDetails;
        let stream = Stream::open();
        assert!(!reconnects(&stream, None));
        stream.set_family(sse_guard::family::Family::EventSource, true);
        assert!(reconnects(&stream, None));
        let request = RequestDetails::of(&Request::post("/v1?token=secret").body(()).unwrap());
        let details = request.with_response(StatusCode::OK, &HeaderMap::new());
        stream.set_names(&std::sync::Arc::default(), Some(details));
        assert!(reconnects(&stream, Some(&[Method::POST])));
        assert!(!reconnects(&stream, Some(&[Method::GET])));
        let row = json!(StreamRow::with_more(&stream, true));
        assert_eq!(row["path"], "/v1");
        assert_eq!(row["family"], "eventsource");
        assert_eq!(row["request"]["method"], "POST");
        assert_eq!(row["response"]["status"], 200);
        stream.set_opaque();
        assert!(!reconnects(&stream, None));
        assert!(json!(StreamRow::of(&stream)).get("request").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_sorted_by_each_field_both_ways() {
        let (quiet, busy) = (Stream::open(), Stream::open());
        tokio::time::advance(Duration::from_secs(1)).await;
        let young = Stream::open();
        busy.record_bytes(100, Instant::now());
        busy.record_events(5, true, Instant::now());
        let ids = |sort, order| {
            let query = StreamQuery {
                sort,
                order,
                ..StreamQuery::default()
            };
            let sorted = query.select(vec![young.clone(), busy.clone(), quiet.clone()]);
            sorted.iter().map(Stream::id).collect::<Vec<_>>()
        };
        let (quiet, busy, young) = (quiet.id(), busy.id(), young.id());
        for (sort, ascending) in [
            (SortField::Id, [quiet, busy, young]),
            (SortField::Age, [young, quiet, busy]),
            (SortField::Events, [quiet, young, busy]),
            (SortField::EventsPerSecond, [quiet, young, busy]),
            (SortField::Bytes, [quiet, young, busy]),
            (SortField::LastEvent, [busy, quiet, young]),
            (SortField::Client, [quiet, busy, young]),
            (SortField::Unsent, [quiet, busy, young]),
            (SortField::Held, [quiet, busy, young]),
        ] {
            assert_eq!(ids(sort, SortOrder::Asc), ascending, "{sort:?}");
            let mut descending = ascending;
            descending.reverse();
            assert_eq!(ids(sort, SortOrder::Desc), descending, "{sort:?}");
        }
    }
}
