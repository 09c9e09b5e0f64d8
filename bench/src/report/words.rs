//! What the figures say, in a paragraph for each question.

use super::number::{amount, significant};
use crate::questions::subscribers::{EACH, ONCE, WRAPPED};
use crate::result::{Figure, Question, Report};

/// The figure of this measure and series; at this place, or at the nearest to it.
fn find<'r>(
    report: &'r Report,
    question: Question,
    measure: &str,
    series: &str,
    unit: &str,
    at: f64,
) -> Option<&'r Figure> {
    report
        .of(question)
        .filter(|f| f.measure == measure && f.series == series && f.unit == unit)
        .min_by(|a, b| (a.at - at).abs().total_cmp(&(b.at - at).abs()))
}

/// The answer to `question`, as sentences; `None` where nothing was measured.
pub fn answer(report: &Report, question: Question) -> Option<String> {
    report.of(question).next()?;
    let sentences = match question {
        Question::Schemes => schemes(report),
        Question::Mode => mode(report),
        Question::Mqtt => mqtt(report),
        Question::Subscribers => subscribers(report),
        Question::Device => device(report),
        Question::Broker => broker(report),
    };
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn schemes(report: &Report) -> Vec<String> {
    const Q: Question = Question::Schemes;
    let mut said = Vec::new();
    let cost = |measure, series| find(report, Q, measure, series, "ms", 10.0);
    if let (Some(seal), Some(open), Some(keygen)) =
        (cost("encapsulate", "fabeo-cp"), cost("decapsulate", "fabeo-cp"), cost("keygen", "fabeo-cp"))
    {
        said.push(format!(
            "Under {} attributes fabeo-cp encapsulates in {}, decapsulates in {} and makes a key in {} (medians).",
            significant(seal.at),
            amount(seal.spread.p50, "ms"),
            amount(open.spread.p50, "ms"),
            amount(keygen.spread.p50, "ms"),
        ));
    }
    let open = |series| find(report, Q, "decapsulate", series, "ms", 50.0);
    if let (Some(ours), Some(theirs)) = (open("fabeo-cp"), open("bsw")) {
        said.push(format!(
            "At {} attributes it opens in {}; rabe's BSW takes {} at {}.",
            significant(ours.at),
            amount(ours.spread.p50, "ms"),
            amount(theirs.spread.p50, "ms"),
            significant(theirs.at)
        ));
    }
    if let Some(whole) = find(report, Q, "header bytes", "fabeo-cp: whole", "bytes", 10.0) {
        said.push(format!(
            "A header under {} attributes weighs {} with signature and certificate, once for many messages.",
            significant(whole.at),
            amount(whole.spread.p50, "bytes")
        ));
    }
    if let Some(message) = find(report, Q, "message overhead", "compact", "bytes", 256.0) {
        said.push(format!("Each message adds {}.", amount(message.spread.p50, "bytes")));
    }
    if report.of(Q).any(|f| f.series == "bsw" || f.series == "ac17-cp") {
        said.push(
            "rabe's schemes are the yardstick of the literature and protect nothing: the library hashes a label to a \
             point whose discrete logarithm everybody knows (README.md, \"Why rabe is not the lock\")."
                .to_owned(),
        );
    }
    said
}

fn mode(report: &Report) -> Vec<String> {
    const Q: Question = Question::Mode;
    let mut said = vec![
        "In the SMQTT paper (Singh et al., \"Secure MQTT for Internet of Things (IoT)\", CSNT 2015) a device in \
         key-policy mode asks the key generator on line, and one in ciphertext-policy mode works off line. Here both \
         hold their keys, so neither asks anybody to open a message; the on-line lines show what the paper's way \
         would cost."
            .to_owned(),
    ];
    let at = |measure, series, unit| find(report, Q, measure, series, unit, 10.0).map(|f| f.spread.p50);
    let (cp, kp) = (at("decapsulate", "fabeo-cp", "ms"), at("decapsulate", "fabeo-kp", "ms"));
    if let (Some(cp), Some(kp)) = (cp, kp) {
        said.push(format!("Opening takes {} in CP and {} in KP.", amount(cp, "ms"), amount(kp, "ms")));
    }
    let header = |series| at("header on the wire", series, "bytes");
    if let (Some(cp), Some(kp)) = (header("fabeo-cp"), header("fabeo-kp")) {
        said.push(format!(
            "The encapsulation weighs {} in CP and {} in KP: choose by who knows the policy, the publisher (CP) or \
             the authority (KP), rather than by cost.",
            amount(cp, "bytes"),
            amount(kp, "bytes")
        ));
    }
    let time = |series: &str| find(report, Q, "time to open", series, "ms", 50.0);
    if let (Some(off), Some(on)) = (time("fabeo-cp, off line"), time("fabeo-cp, on line")) {
        said.push(format!(
            "With a round trip of {} ms a key asked for on line makes opening take {} instead of {}.",
            significant(on.at),
            amount(on.spread.p50, "ms"),
            amount(off.spread.p50, "ms")
        ));
    }
    said
}

fn mqtt(report: &Report) -> Vec<String> {
    const Q: Question = Question::Mqtt;
    let mut said = Vec::new();
    let at = |measure, series, unit| {
        find(report, Q, measure, series, unit, 256.0).filter(|f| f.at == 256.0).map(|f| f.spread.p50)
    };
    let of = |measure, unit| {
        let each = ["plain", "tls", "psk", "sealed", "sealed-signed"].map(|series| at(measure, series, unit));
        let [Some(plain), Some(tls), Some(psk), Some(sealed), Some(signed)] = each else { return None };
        Some([plain, tls, psk, sealed, signed].map(|value| amount(value, unit)))
    };
    if let Some(ratio) = at("p50 against TLS, QoS 1", "sealed", "ratio") {
        said.push(format!(
            "Of 256 bytes at QoS 1, sealed over TLS takes {ratio:.3} of the time that TLS alone takes, by the median of \
             blocks in turn."
        ));
    }
    if let Some([plain, tls, psk, sealed, signed]) = of("latency, QoS 1", "µs") {
        said.push(format!(
            "A reading of that size arrives after {plain} in plain text, {tls} over TLS, {psk} under a pre-shared key over \
             TLS, {sealed} sealed over TLS, and {signed} sealed and signed (medians)."
        ));
    }
    if let Some([plain, tls, psk, sealed, signed]) = of("CPU of all three, QoS 1", "µs/message") {
        said.push(format!(
            "In a stream, publisher, broker and subscriber together spend {plain}, {tls}, {psk}, {sealed} and {signed} of \
             processor time, in the same order."
        ));
    }
    if let Some([plain, tls, psk, sealed, signed]) = of("bytes from publisher to broker, QoS 1", "bytes") {
        said.push(format!(
            "To the broker it takes {plain}, {tls}, {psk}, {sealed} and {signed}, the header that is sent once not counted."
        ));
    }
    let count = report.of(Q).count();
    said.push(format!(
        "There are {count} figures, of all sizes and qualities of service that were measured."
    ));
    said
}

fn subscribers(report: &Report) -> Vec<String> {
    const Q: Question = Question::Subscribers;
    let mut said = Vec::new();
    let at = |series, n| find(report, Q, "seal", series, "ms", n);
    if let (Some(once), Some(each)) = (at(ONCE, 1_000.0), at(EACH, 1_000.0)) {
        said.push(format!(
            "Sealing once under a policy, with a new header and its signature, costs {} for any number of readers; \
             encrypting for each of {}, without a signature, costs {}.",
            amount(once.spread.p50, "ms"),
            significant(each.at),
            amount(each.spread.p50, "ms")
        ));
    }
    let even = |series| find(report, Q, "break-even", series, "subscribers", 10.0);
    if let (Some(each), Some(wrapped)) = (even(EACH), even(WRAPPED)) {
        said.push(format!(
            "By time the two break even at about {} subscribers, and at about {} where HPKE wraps only a content key \
             for each.",
            each.spread.p50.ceil(),
            wrapped.spread.p50.ceil()
        ));
    }
    let bytes = |series| find(report, Q, "break-even by bytes", series, "subscribers", 10.0);
    if let (Some(each), Some(wrapped)) = (bytes(EACH), bytes(WRAPPED)) {
        said.push(format!(
            "By bytes, signature and certificate included on one side only, at about {} and {}.",
            each.spread.p50.ceil(),
            wrapped.spread.p50.ceil()
        ));
    }
    said.push(
        "That is the price of a header or a new content key. Further messages under a content key cost one AES-GCM \
         either way; what a policy saves there is that the publisher need not know who its readers are."
            .to_owned(),
    );
    said
}

fn device(report: &Report) -> Vec<String> {
    const Q: Question = Question::Device;
    let mut said = vec![
        "These are estimates, not measurements. The named classes: the instructions of one operation here (counted by \
         the processor or by callgrind, or guessed from time and clock where neither is there; each figure says which), times a range of cycles for each that the word size \
         and the pipeline of a class suggest, at its clock. A device given by --slow N: wall times here, times N."
            .to_owned(),
    ];
    let range = |measure: &str| {
        let figure = report.of(Q).find(|f| f.measure == measure && f.series.starts_with("Cortex-M4"))?;
        Some(format!("{} to {}", amount(figure.spread.min, "ms"), amount(figure.spread.max, "ms")))
    };
    if let (Some(seal), Some(open)) = (range("fabeo-cp: encapsulate"), range("fabeo-cp: decapsulate")) {
        said.push(format!(
            "A Cortex-M4 at 168 MHz would seal a header in {seal} and open one in {open}; one header serves many \
             messages."
        ));
    }
    said.push(
        "Messages themselves are AES-256-GCM and are not scaled: this machine has instructions for AES that a \
         microcontroller has not."
            .to_owned(),
    );
    said
}

fn broker(report: &Report) -> Vec<String> {
    const Q: Question = Question::Broker;
    let mut said = vec![
        "Deliveries a second, and the broker's processor time for each: of our broker with its hook, rules and store, of stock \
         rumqttd and of mosquitto, in turn on one machine."
            .to_owned(),
    ];
    let rate = |series| find(report, Q, "deliveries, 1 to 1, QoS 1", series, "messages/s", 256.0);
    if let (Some(ours), Some(theirs)) = (rate("smqtt"), rate("mosquitto")) {
        said.push(format!(
            "One to one at QoS 1 that is {} for ours and {} for mosquitto (medians).",
            amount(ours.spread.p50, "messages/s"),
            amount(theirs.spread.p50, "messages/s")
        ));
    }
    let durable = find(report, Q, "deliveries, durable, 1 to 1, QoS 1", "smqtt", "messages/s", 256.0);
    if let Some(durable) = durable {
        said.push(format!(
            "To a session that outlives the broker, synced before each acknowledgement, it is {}.",
            amount(durable.spread.p50, "messages/s")
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::result::Spread;

    #[test]
    fn every_question_with_figures_has_an_answer() {
        let mut report = sample();
        for question in Question::ALL {
            assert!(answer(&report, question).is_some_and(|text| text.ends_with('.')));
        }
        report.figures.clear();
        for (measure, series, unit, value) in [
            ("p50 against TLS, QoS 1", "sealed", "ratio", 1.016),
            ("latency, QoS 1", "plain", "µs", 101.0),
            ("latency, QoS 1", "tls", "µs", 102.0),
            ("latency, QoS 1", "psk", "µs", 103.0),
            ("latency, QoS 1", "sealed", "µs", 104.0),
        ] {
            let at = ("payload bytes", 256.0);
            report.figures.push(Figure::new(Question::Mqtt, measure, series, at, unit, Spread::exact(value)));
        }
        let text = answer(&report, Question::Mqtt).unwrap();
        assert!(text.contains("takes 1.016 of the time") && !text.contains("arrives after"), "{text}");
        let at = ("payload bytes", 256.0);
        let signed = Spread::exact(105.0);
        let signed = Figure::new(Question::Mqtt, "latency, QoS 1", "sealed-signed", at, "µs", signed);
        report.figures.push(signed);
        let text = answer(&report, Question::Mqtt).unwrap();
        assert!(text.contains("101 µs in plain") && text.contains("105 µs sealed and signed"), "{text}");
        report.figures.clear();
        for question in Question::ALL {
            assert_eq!(answer(&report, question), None);
        }
    }
}
