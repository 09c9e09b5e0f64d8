//! The API's description and reference, made of the table of operations and of the API's types, and compared with what
//! is in `docs/`. `SMQTT_REGENERATE=1 cargo test -p smqtt-keysvc --test authority openapi` writes them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use smqtt_core::api;
use smqtt_keysvc::{Method, Operation, Who};

use crate::common::Running;

const JSON: &str = "application/json";
/// A signing request, in base64.
const PKCS10: &str = "application/pkcs10";
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
/// Of `Idempotency-Key`, with quotes or without.
const KEY: &str = "^(\"[A-Za-z0-9._-]{1,64}\"|[A-Za-z0-9._-]{1,64})$";
const BASE64: &str = "^[A-Za-z0-9+/]+={0,2}$";
const YEAR: u64 = 366 * 86_400;

/// What the table does not say of an operation: the query, the body, and what is answered.
struct Told {
    query: Vec<(&'static str, Value, bool)>,
    body: Option<Value>,
    answers: Vec<(u16, &'static str, Option<Value>)>,
    /// Refusals besides those that every operation of its kind has.
    refusals: &'static [u16],
}

/// Which part of a list.
fn page() -> [(&'static str, Value, bool); 3] {
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX });
    let cursor = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": 36 });
    let after = json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" });
    [("limit", limit, false), ("cursor", cursor, false), ("after", after, false)]
}

struct Teller(SchemaGenerator);

impl Teller {
    fn of<T: JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().to_value()
    }

    fn answer<T: JsonSchema>(&mut self, refusals: &'static [u16]) -> Told {
        let answers = vec![(200, JSON, Some(self.of::<T>()))];
        Told { query: vec![], body: None, answers, refusals }
    }

    fn exchange<Q: JsonSchema, A: JsonSchema>(&mut self, status: u16, refusals: &'static [u16]) -> Told {
        let (body, answer) = (self.of::<Q>(), self.of::<A>());
        Told { query: vec![], body: Some(body), answers: vec![(status, JSON, Some(answer))], refusals }
    }

    /// A new operation does not compile without a line here.
    fn tell(&mut self, operation: Operation) -> Told {
        let number = || json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
        match operation {
            Operation::Health => self.answer::<api::Health>(&[]),
            Operation::Root => Told {
                query: vec![],
                body: None,
                answers: vec![(200, "application/x-pem-file", Some(json!({ "type": "string" })))],
                refusals: &[],
            },
            Operation::Params => self.answer::<api::Params>(&[]),
            Operation::Describe => Told {
                query: vec![],
                body: None,
                answers: vec![(200, JSON, Some(json!({ "type": "object" })))],
                refusals: &[],
            },
            Operation::Enrol => {
                let mut told = self.exchange::<api::EnrolRequest, api::Enrolment>(200, &[409, 410]);
                told.answers.push((202, JSON, Some(self.of::<api::Waiting>())));
                told
            }
            Operation::Renew => self.exchange::<api::RenewRequest, api::Enrolment>(200, &[]),
            Operation::EstRoots => Told {
                query: vec![],
                body: None,
                answers: vec![(200, "application/pkcs7-mime", Some(json!({ "type": "string" })))],
                refusals: &[],
            },
            Operation::EstEnrol => Told {
                query: vec![],
                body: Some(json!({ "type": "string", "maxLength": 8192 })),
                answers: vec![
                    (200, "application/pkcs7-mime; smime-type=certs-only", Some(json!({ "type": "string" }))),
                    (202, JSON, Some(self.of::<api::Waiting>())),
                ],
                refusals: &[409, 410],
            },
            Operation::EstRenew => Told {
                query: vec![],
                body: Some(json!({ "type": "string", "maxLength": 8192 })),
                answers: vec![(
                    200,
                    "application/pkcs7-mime; smime-type=certs-only",
                    Some(json!({ "type": "string" })),
                )],
                refusals: &[],
            },
            Operation::FetchKeys => {
                let mut told = self.answer::<api::Keys>(&[]);
                told.query.push(("since", number(), false));
                told.answers.push((304, "", None));
                told
            }
            Operation::ReadBundle => Told {
                query: vec![
                    ("after", number(), false),
                    ("wait", number(), false),
                    ("revision", number(), false),
                ],
                body: None,
                answers: vec![
                    (200, "application/cose; cose-type=\"cose-sign1\"", Some(json!({ "type": "string" }))),
                    (204, "", None),
                ],
                refusals: &[],
            },
            Operation::ListRules => self.answer::<Vec<api::Rule>>(&[]),
            Operation::SetRule => self.exchange::<api::Rule, api::RuleSet>(200, &[409]),
            Operation::RemoveRule => {
                let mut told = self.answer::<api::RuleSet>(&[404]);
                told.query.push(("filter", json!({ "type": "string" }), true));
                told
            }
            Operation::MakeToken => self.exchange::<api::TokenRequest, api::NewToken>(201, &[404, 409]),
            Operation::ListTokens => {
                let mut told = self.answer::<Vec<api::TokenInfo>>(&[]);
                told.query.extend(page());
                told
            }
            Operation::ShowToken => self.answer::<api::TokenInfo>(&[404]),
            Operation::RemoveToken => self.answer::<api::TokenInfo>(&[404]),
            Operation::ListApplicants => self.answer::<Vec<api::Applicant>>(&[]),
            Operation::Approve => {
                let mut told = self.answer::<api::Device>(&[404, 409, 410]);
                told.query.push(("key", json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" }), false));
                told
            }
            Operation::Deny => {
                let mut told = self.answer::<api::Applicant>(&[404, 409]);
                told.query.push(("key", json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" }), false));
                told
            }
            Operation::ListDevices => {
                let mut told = self.answer::<Vec<api::Device>>(&[]);
                told.query.extend(page());
                told
            }
            Operation::ShowDevice => self.answer::<api::Device>(&[404]),
            Operation::ChangeDevice => {
                self.exchange::<api::DeviceChange, api::DeviceChanged>(200, &[404, 409])
            }
            Operation::Suspend => self.answer::<api::Suspension>(&[404, 409]),
            Operation::Resume => self.answer::<api::Resumption>(&[404, 409]),
            Operation::Reset => self.exchange::<api::ResetRequest, api::Reset>(201, &[404, 409]),
            Operation::ListProfiles => self.answer::<Vec<api::Profile>>(&[]),
            Operation::ShowProfile => self.answer::<api::Profile>(&[404]),
            Operation::SetProfile => self.exchange::<api::ProfileRequest, api::TemplateSet>(200, &[404, 409]),
            Operation::ListGroups => self.answer::<Vec<api::Group>>(&[]),
            Operation::ShowGroup => self.answer::<api::Group>(&[404]),
            Operation::SetGroup => self.exchange::<api::GroupRequest, api::TemplateSet>(200, &[404, 409]),
            Operation::RemoveProfile => {
                let mut told = self.answer::<api::TemplateSet>(&[404, 409]);
                told.query.push(("rules", json!({ "type": "boolean" }), false));
                told
            }
            Operation::RemoveGroup => self.answer::<api::TemplateSet>(&[404, 409]),
            Operation::Revoke => {
                let mut told = self.answer::<api::Revocation>(&[404, 409]);
                told.query.push(("purge_retained", json!({ "type": "boolean" }), false));
                told
            }
            Operation::ShowRevocation => {
                let mut told = self.answer::<api::RevocationReport>(&[404]);
                told.query.push(("wait", number(), false));
                told
            }
            Operation::ListRevocations => self.answer::<Vec<api::RevocationOrder>>(&[]),
            Operation::ReportRevocation => {
                self.exchange::<api::RevocationDone, api::RevocationDone>(200, &[404, 409])
            }
            Operation::ReadDirectory => {
                let mut told = self.answer::<api::Directory>(&[]);
                told.query.push(("after", number(), false));
                told
            }
            Operation::BeginEpoch => self.answer::<api::Rotation>(&[]),
            Operation::BackUp => self.exchange::<api::BackupRequest, api::BackupMade>(200, &[409]),
            Operation::RotateRootKey => self.answer::<api::RootKeyRotated>(&[]),
            Operation::RotateMaster => self.exchange::<api::MasterRotation, api::MasterRotated>(200, &[409]),
            Operation::RotateCertificate => {
                self.exchange::<api::CertificateRotation, api::CertificateRotated>(200, &[409])
            }
            Operation::MakeAccess => self.exchange::<api::AccessRequest, api::NewAccess>(201, &[409]),
            Operation::ListAccess => {
                let mut told = self.answer::<Vec<api::Access>>(&[]);
                told.query.extend(page());
                told
            }
            Operation::RemoveAccess => self.answer::<api::Access>(&[404]),
            Operation::ListCheckpoints => {
                let mut told = self.answer::<Vec<api::Checkpoint>>(&[]);
                told.query.push(("after", number(), false));
                told
            }
            Operation::ReadAudit => {
                let mut told = self.answer::<Vec<api::AuditRecord>>(&[]);
                told.query.push(("after", number(), false));
                told
            }
        }
    }
}

/// What the types cannot say of requests: how long, which letters, which words.
fn constraints() -> Vec<(&'static str, &'static str, Value)> {
    let hex = |digits: usize| json!({ "pattern": format!("^[0-9a-f]{{{digits}}}$") });
    let base64 = |bytes: usize| json!({ "pattern": BASE64, "maxLength": bytes.div_ceil(3) * 4 });
    let list = |items: usize, chars: usize| json!({ "maxItems": items, "items": { "type": "string", "minLength": 1, "maxLength": chars } });
    let count = || json!({ "minimum": 0, "maximum": u32::MAX });
    let ttl = || json!({ "minimum": 1, "maximum": YEAR });
    let policy = || json!({ "minLength": 1, "maxLength": 4096 });
    let key = || json!({ "pattern": BASE64, "minLength": 88, "maxLength": 88 });
    vec![
        ("EnrolRequest", "token_id", hex(32)),
        ("EnrolRequest", "secret", hex(32)),
        ("EnrolRequest", "csr", base64(4096)),
        ("EnrolRequest", "hpke_key", key()),
        ("RenewRequest", "csr", base64(4096)),
        ("RenewRequest", "hpke_key", key()),
        ("RevocationDone", "bundle", json!({ "minimum": 1, "maximum": u64::MAX })),
        ("RevocationDone", "cut_at", json!({ "minimum": 0, "maximum": u64::MAX })),
        ("RevocationDone", "sessions", count()),
        ("RevocationDone", "connections", count()),
        ("RevocationDone", "retained", count()),
        ("TokenRequest", "name", json!({ "pattern": NAME })),
        ("TokenRequest", "role", json!({ "enum": ["device", "broker", "bridge", "enroller", "auditor"] })),
        ("TokenRequest", "attributes", list(64, 4096)),
        ("TokenRequest", "policy", policy()),
        ("TokenRequest", "ttl_seconds", ttl()),
        ("TokenRequest", "hosts", list(32, 253)),
        ("ProfileRequest", "attributes", list(64, 4096)),
        ("ProfileRequest", "policy", policy()),
        ("ProfileRequest", "certificate_days", json!({ "minimum": 1, "maximum": 3650 })),
        ("ProfileRequest", "token_ttl_seconds", ttl()),
        ("ProfileRequest", "rules", json!({ "maxItems": 64 })),
        ("GroupRequest", "profile", json!({ "pattern": NAME })),
        ("GroupRequest", "attributes", list(64, 4096)),
        ("TokenRequest", "profile", json!({ "pattern": NAME })),
        ("TokenRequest", "group", json!({ "pattern": NAME })),
        ("DeviceChange", "profile", json!({ "pattern": NAME })),
        ("DeviceChange", "group", json!({ "pattern": NAME })),
        ("EnrolRequest", "serial", json!({ "pattern": NAME })),
        ("TokenRequest", "count", json!({ "minimum": 1, "maximum": 10_000 })),
        (
            "TokenRequest",
            "serials",
            json!({ "maxItems": 1000, "items": { "type": "string", "pattern": NAME } }),
        ),
        ("AccessRequest", "name", json!({ "pattern": NAME })),
        ("AccessRequest", "role", json!({ "enum": ["admin", "enroller", "auditor"] })),
        ("AccessRequest", "operations", list(100, 64)),
        ("AccessRequest", "ttl_seconds", ttl()),
        ("ResetRequest", "ttl_seconds", ttl()),
        ("BackupRequest", "to", list(16, 256)),
        ("MasterRotation", "suite", json!({ "enum": ["fabeo-cp", "fabeo-kp"] })),
        ("MasterRotation", "step", json!({ "enum": ["prepare", "activate", "retire"] })),
        ("CertificateRotation", "step", json!({ "enum": ["prepare", "activate", "retire"] })),
        ("DeviceChange", "set", list(64, 4096)),
        ("DeviceChange", "add", list(64, 4096)),
        ("DeviceChange", "remove", list(64, 4096)),
        ("Rule", "filter", json!({ "minLength": 1, "maxLength": 1024 })),
        ("DeviceChange", "policy", policy()),
        // Together with the rest of the body.
        ("Rule", "policy", json!({ "minLength": 1, "maxLength": 65_536 })),
        ("Rule", "labels", json!({ "minLength": 1, "maxLength": 65_536 })),
        ("Rule", "publishers", json!({ "minLength": 1, "maxLength": 65_536 })),
        ("Rule", "subscribers", json!({ "minLength": 1, "maxLength": 65_536 })),
        ("Rule", "mode", json!({ "enum": ["open", "warn", "required"] })),
    ]
}

fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut teller = Teller(settings.into_generator());
    let problem = teller.of::<api::Problem>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in Operation::ALL.iter().copied() {
        let told = teller.tell(operation);
        let method = operation.method().name().to_lowercase();
        let item = described(operation, told, &problem);
        paths.entry(operation.path()).or_default().insert(method, item);
    }
    let mut schemas = teller.0.take_definitions(true);
    for (schema, property, constraint) in constraints() {
        let property = schemas[schema]["properties"].get_mut(property);
        let property = property.unwrap_or_else(|| panic!("{schema} has no such property")).as_object_mut();
        property.unwrap().extend(constraint.as_object().unwrap().clone());
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "SMQTT key authority",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Enrolment, keys, rules and revocation. PROTOCOL.md, section 15, has the checks behind it.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "https://localhost:8443" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "certificate": { "type": "mutualTLS", "description": "A certificate of the authority." },
                "token": { "type": "http", "scheme": "basic", "description": "An enrolment token as the password." },
                "access": { "type": "http", "scheme": "bearer", "description": "An access token." }
            }
        }
    });
    plain(&mut document);
    document
}

fn described(operation: Operation, told: Told, problem: &Value) -> Value {
    let mut parameters: Vec<Value> = told
        .query
        .into_iter()
        .map(|(name, schema, required)| {
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        })
        .collect();
    if operation.takes_idempotency_key() {
        let schema = json!({ "type": "string", "pattern": KEY });
        let header = api::IDEMPOTENCY_KEY_HEADER;
        parameters.push(json!({ "name": header, "in": "header", "required": false, "schema": schema }));
    }
    if operation.takes_if_match() {
        let schema = json!({ "type": "string" });
        parameters.push(json!({ "name": "if-match", "in": "header", "required": false, "schema": schema }));
    }
    let mut refusals = vec![400, 429, 503];
    if operation.takes_if_match() {
        refusals.push(412);
    }
    if operation.takes_idempotency_key() {
        refusals.push(422);
    }
    refusals.extend(told.refusals);
    if told.body.is_some() {
        refusals.extend([408, 413, 415]);
    }
    match operation.who() {
        Who::Anyone => {}
        Who::Token => refusals.extend([401, 403]),
        Who::Roles(_) | Who::Holders(_) => refusals.extend([401, 403]),
    }
    if let Some((_, rest)) = operation.path().split_once('{') {
        let name = rest.split('}').next().unwrap();
        let schema = json!({ "type": "string", "minLength": 1, "maxLength": 64 });
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    let mut answers = Map::new();
    for (status, media, schema) in told.answers {
        let mut answer = json!({ "description": if status == 304 { "What the caller has" } else { "Done" } });
        if let Some(schema) = schema {
            answer["content"] = json!({ media: { "schema": schema } });
        }
        answers.insert(status.to_string(), answer);
    }
    for status in refusals {
        let content = json!({ api::PROBLEM_TYPE: { "schema": problem } });
        let answer = json!({ "description": "Refused, and why", "content": content });
        answers.insert(status.to_string(), answer);
    }
    let security = match operation.who() {
        Who::Token if operation == Operation::EstEnrol => json!([{ "token": [] }]),
        Who::Anyone | Who::Token => json!([]),
        Who::Roles(_) => json!([{ "certificate": [] }, { "access": [] }]),
        Who::Holders(_) => json!([{ "certificate": [] }]),
    };
    let roles: Vec<_> = operation.roles().iter().map(|role| role.name()).collect();
    let mut item = json!({
        "operationId": operation.name(),
        "summary": operation.summary(),
        "x-roles": roles,
        "security": security,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(schema) = told.body {
        let media = if operation.path().contains("/est/") { PKCS10 } else { JSON };
        item["requestBody"] = json!({ "required": true, "content": { media: { "schema": schema } } });
    }
    item
}

/// Descriptions are comments of the code: without its links.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

/// The reference that people read.
fn reference(document: &Value) -> String {
    let mut out = String::from(
        "# The authority's API\n\nMade of the code by a test, like [openapi.json](openapi.json); what is checked behind it is in \
         [PROTOCOL.md](../PROTOCOL.md), section 15.\nBodies are JSON. Refusals are problems (RFC 9457), with one word at the end of \
         `type` for programs.\n",
    );
    for operation in Operation::ALL.iter().copied() {
        let item = &document["paths"][operation.path()][operation.method().name().to_lowercase()];
        let who = match operation.who() {
            Who::Anyone => "anyone".to_owned(),
            Who::Token => "whoever has an enrolment token".to_owned(),
            Who::Roles(roles) => words(roles.iter().map(|role| role.name())),
            Who::Holders(roles) => words(roles.iter().map(|role| role.name())) + "; by certificate only",
        };
        let (method, path) = (operation.method().name(), operation.path());
        let _ = write!(
            out,
            "\n## `{method} {path}`\n\n{}. `{}`, for {who}.\n",
            operation.summary(),
            operation.name()
        );
        for parameter in item["parameters"].as_array().unwrap() {
            let (place, name) = (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap());
            let needed = if parameter["required"] == true { "" } else { ", may be absent" };
            let _ = write!(out, "\n- `{name}` in the {place}{needed}: {}", kind(&parameter["schema"]));
        }
        if let Some(body) = item["requestBody"].pointer("/content/application~1json/schema") {
            let _ = write!(out, "\n- body: {}", kind(body));
        } else if item["requestBody"].is_object() {
            let _ = write!(out, "\n- body: `{PKCS10}`");
        }
        let mut refused = Vec::new();
        for (status, answer) in item["responses"].as_object().unwrap() {
            let content = answer["content"].as_object().and_then(|content| content.iter().next());
            match content {
                Some((media, _)) if media == api::PROBLEM_TYPE => refused.push(status.as_str()),
                Some((media, content)) if media == JSON => {
                    let _ = write!(out, "\n- {status}: {}", kind(&content["schema"]));
                }
                Some((media, _)) => drop(write!(out, "\n- {status}: `{media}`")),
                None => drop(write!(out, "\n- {status}: nothing")),
            }
        }
        let _ = writeln!(out, "\n- refused with {}", refused.join(", "));
    }
    out.push_str("\n# Shapes\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let about = schema["description"].as_str().unwrap_or_default();
        let _ = write!(out, "\n## {name}\n\n{about}\n\n| field | what | |\n|---|---|---|\n");
        let required: Vec<_> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            let optional = if required.contains(&field.as_str()) { "" } else { ", may be absent" };
            let about = schema["description"].as_str().unwrap_or_default();
            let _ = writeln!(out, "| `{field}` | {}{optional} | {about} |", kind(schema).replace('|', "\\|"));
        }
    }
    out
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let named = match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => words(names.iter().filter_map(Value::as_str)).replace(", ", " or "),
        _ => "anything".to_owned(),
    };
    let mut bounds = Vec::new();
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        bounds.push(words.join(", "));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        bounds.push(format!("`{pattern}`"));
    }
    for (key, text) in [("maxLength", "characters"), ("maxItems", "entries")] {
        bounds.extend(schema[key].as_u64().map(|max| format!("at most {max} {text}")));
    }
    if let (Some(min), Some(max)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64())
        && max < u64::MAX
    {
        bounds.push(format!("{min} to {max}"));
    }
    if bounds.is_empty() { named } else { format!("{named}: {}", bounds.join("; ")) }
}

fn compare(name: &str, made: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("SMQTT_REGENERATE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made,
        "docs/{name} is not what the code says: SMQTT_REGENERATE=1 cargo test -p smqtt-keysvc --test authority openapi"
    );
}

#[test]
fn description_and_reference_are_what_the_code_says() {
    let document = description();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    compare("openapi.json", &text);
    compare("API.md", &reference(&document));
}

#[test]
fn every_request_is_bounded_and_takes_no_unknown_key() {
    let document = description();
    let mut bodies = 0;
    for operation in Operation::ALL {
        let item = &document["paths"][operation.path()][operation.method().name().to_lowercase()];
        let Some(body) = item["requestBody"].pointer("/content/application~1json/schema/$ref") else {
            assert!(
                matches!(operation.method(), Method::Get | Method::Delete | Method::Post),
                "{operation:?}"
            );
            continue;
        };
        bodies += 1;
        let name = body.as_str().unwrap().rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name}");
        for (field, schema) in schema["properties"].as_object().unwrap() {
            let bounds = ["maxLength", "maxItems", "maximum", "pattern", "enum", "$ref"];
            let boolean = schema["type"] == "boolean";
            let bounded = boolean || bounds.iter().any(|bound| !schema[bound].is_null());
            assert!(bounded, "{name}.{field} has no bound: add it to `constraints`");
        }
    }
    assert!(bodies > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_served() {
    let server = Running::start().await;
    let served = server.anonymous().get("/v1/openapi.json").await;
    assert_eq!(served.headers["content-type"], "application/json");
    assert!(served.json::<Value>() == description(), "built before the description was written");
}
