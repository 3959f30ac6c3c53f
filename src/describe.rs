//! The description of all metrics.

use crate::{completion, early, heartbeat, metrics, rejection, resume, stream, unavailable};

/// Describes each metric of this crate and its unit to the installed recorder.
///
/// Counts of what should never happen, such as rejections and lost upstreams, are exported as zero from then
/// on, so that the first of a kind is an increase.
pub fn describe_metrics() {
    metrics::describe_metrics();
    stream::describe_metrics();
    rejection::describe_metrics();
    heartbeat::describe_metrics();
    early::describe_metrics();
    unavailable::describe_metrics();
    completion::describe_metrics();
    resume::describe_metrics();
}
