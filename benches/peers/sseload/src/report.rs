//! What a run found.

use serde_json::{Map, Value, json};

/// Named results of one run, in the order in which they were set.
#[derive(Debug, Clone, Default)]
pub struct Report(Map<String, Value>);

/// Four significant digits: no more are meant.
fn short(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    let scale = 10_f64.powi(3 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}

impl Report {
    /// Sets a count or a text.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Sets a measured number; leaves it out if there is none.
    pub fn number(&mut self, key: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into().filter(|v| v.is_finite()) {
            self.0.insert(key.to_owned(), json!(short(value)));
        }
    }

    /// One object: what was run on what, then the results.
    pub fn to_json(&self, workload: &str, target: &str) -> Value {
        let mut map = Map::new();
        map.insert("workload".into(), workload.into());
        map.insert("target".into(), target.into());
        map.extend(self.0.clone());
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_and_exist() {
        let mut report = Report::default();
        report.set("conns", 12_345);
        report.number("big", 123_456.0);
        report.number("small", 0.001_234_56);
        report.number("zero", 0.0);
        report.number("none", None);
        report.number("nan", f64::NAN);
        assert_eq!(
            report.to_json("w", "t").to_string(),
            r#"{"workload":"w","target":"t","conns":12345,"big":123500.0,"small":0.001235,"zero":0.0}"#
        );
    }
}
