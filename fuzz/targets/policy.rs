//! Whatever parses prints and encodes to what reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smqtt_core::attribute::{Attribute, Attributes, Label, Versions};
use smqtt_core::policy::{ACCESS_DEPTH_MAX, ACCESS_LEAVES_MAX, Labelling, Policy, Template};

fn policy(policy: &Policy) {
    assert_eq!(&policy.to_string().parse::<Policy>().expect("it prints what it reads"), policy);
    assert_eq!(&Policy::decode(&policy.encode()).expect("it reads what it writes"), policy);
    let access = policy.access(&Versions::default(), 7);
    assert!(access.depth() <= ACCESS_DEPTH_MAX && access.leaf_count() <= ACCESS_LEAVES_MAX);
    let everything = Attributes::new(policy.attributes().into_iter().take(64).cloned()).expect("64 at most");
    let labels = everything.labels(&Versions::default(), 7);
    let by_labels = access.satisfied_by(&|label: &Label| labels.contains(label));
    assert_eq!(policy.satisfied_by(&everything), by_labels);
    _ = policy.explain(&everything).to_string();
}

fn labels(labelling: &Labelling) {
    assert_eq!(&labelling.to_string().parse::<Labelling>().expect("it prints what it reads"), labelling);
    assert_eq!(&Labelling::decode(&labelling.encode()).expect("it reads what it writes"), labelling);
    _ = labelling.instantiate(&["3", "x y", "$1"]).map(|labels| labels.encode());
}

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Policy::decode(data) {
        assert_eq!(read.encode(), data, "one encoding");
        policy(&read);
    }
    if let Ok(template) = Template::decode(data) {
        assert_eq!(template.encode(), data, "one encoding");
        _ = template.instantiate(&["3", "x y", "$1"]).map(|instance| policy(&instance));
    }
    if let Ok(labelling) = Labelling::decode(data) {
        assert_eq!(labelling.encode(), data, "one encoding");
        labels(&labelling);
    }
    if let Ok(attributes) = Attributes::decode(data) {
        assert_eq!(attributes.encode(), data, "one encoding");
    }
    if let Ok(versions) = Versions::decode(data) {
        assert_eq!(versions.encode(), data, "one encoding");
    }
    if let Ok(label) = Label::decode(data) {
        assert_eq!(label.as_bytes(), data, "one encoding");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match text.parse::<Policy>() {
            Ok(read) => policy(&read),
            Err(error) => _ = (error.to_string(), error.report().to_string()),
        }
        if let Ok(template) = text.parse::<Template>() {
            assert_eq!(template.to_string().parse::<Template>().expect("it prints what it reads"), template);
        }
        match text.parse::<Labelling>() {
            Ok(read) => labels(&read),
            Err(error) => _ = (error.to_string(), error.report().to_string()),
        }
        if let Ok(attribute) = text.parse::<Attribute>() {
            assert_eq!(
                attribute.to_string().parse::<Attribute>().expect("it prints what it reads"),
                attribute
            );
        }
        if let Ok(attributes) = text.parse::<Attributes>() {
            assert_eq!(
                attributes.to_string().parse::<Attributes>().expect("it prints what it reads"),
                attributes
            );
        }
    }
});
