//! What an authority costs: `cargo bench -p smqtt-keysvc --bench authority [-- ROUNDS]`.
//!
//! The authority serves real HTTPS on loopback from threads of its own, whose processor time is read from `/proc`; devices
//! are in the same process, on other threads. Key renewals over connections that stay open are held, round by round,
//! against what cannot be left out: generating the same keys and sealing them with HPKE, on one thread. `ONLY=renewals`
//! (`enrolments`, `bundles`) runs one part, for a profiler.

#![allow(dead_code)]

#[path = "../tests/authority/common.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Client, Device, DeviceKeys, HPKE, Running, answer, hex};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use smqtt_core::api::{KEY_HPKE_INFO, Keys};
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::suite::{Scope, SuiteId};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Rounds of renewals, and requests in each.
const ROUNDS: usize = 20;
const RENEWALS: usize = 64;
/// Connections at a time.
const CONNECTIONS: usize = 8;
const ENROLMENTS: usize = 400;
const BUNDLES: usize = 4_000;
const ATTRIBUTES: [&[&str]; 3] = [
    &["role=nurse"],
    &["role=nurse", "ward=w3", "site=north"],
    &["role=nurse", "ward=w3", "site=north", "a=1x", "b=1x", "c=1x", "d=1x", "e=1x", "f=1x", "g=1x"],
];

/// Processor time of the threads of this process whose names begin so.
fn processor_time(names: &[&str]) -> Duration {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("Linux has it").flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if names.iter().any(|name| read("comm").starts_with(name)) {
            let time = read("schedstat");
            nanoseconds += time.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanoseconds)
}

/// Of the authority: its runtime's threads, and those of its store.
fn authority_time() -> Duration {
    processor_time(&["authority", "smqtt-"])
}

fn runtime(name: &str) -> Runtime {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all().build().expect("a runtime")
}

/// Sorts, and gives the value at this part of all.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections that were used before.
async fn connections(client: &Client) -> Vec<Sender> {
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut sender = client.connect().await;
        for _ in 0..3 {
            renew(&mut sender).await;
        }
        senders.push(sender);
    }
    senders
}

async fn renew(sender: &mut Sender) {
    let request = Request::get("/v1/keys").header("host", "localhost");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    sender.ready().await.unwrap();
    let answer = answer(sender.send_request(request).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json::<Keys>().keys.len(), 1);
}

/// Renewals of one device's keys over connections that stay open; milliseconds of the authority for each.
async fn renewals(senders: &mut Vec<Sender>, count: usize) -> f64 {
    let before = authority_time();
    let mut work = JoinSet::new();
    for mut sender in senders.drain(..) {
        work.spawn(async move {
            for _ in 0..count / CONNECTIONS {
                renew(&mut sender).await;
            }
            sender
        });
    }
    senders.extend(work.join_all().await);
    (authority_time() - before).as_secs_f64() * 1e3 / count as f64
}

/// The same keys generated and sealed, with nothing around it; milliseconds for each.
fn bare(attributes: &[&str], device: &Device, count: usize) -> f64 {
    let suite = SuiteId::FabeoCp.suite();
    let (_, master) = suite.setup(&Secret32::random());
    let attributes = Attributes::parse(attributes).unwrap();
    let public = HpkePublicKey(device.keys.hpke_public.clone());
    let before = processor_time(&["bare"]);
    for _ in 0..count {
        let scope = Scope::Labels(attributes.labels(&Versions::default(), 1).into());
        let key = suite.keygen(&master, 1, &scope, &Secret32::random()).unwrap();
        std::hint::black_box(HPKE.seal(KEY_HPKE_INFO, &device.id().0, &key.encode(), &public).unwrap());
    }
    (processor_time(&["bare"]) - before).as_secs_f64() * 1e3 / count as f64
}

fn compare_renewals(running: &Running, load: &Runtime, rounds: usize) {
    println!(
        "key renewals over {CONNECTIONS} connections that stay open, {rounds} rounds of {RENEWALS}, medians"
    );
    println!("attributes   authority, ms of processor   keygen and HPKE, ms   ratio (p10 to p90)");
    for attributes in ATTRIBUTES {
        let name = format!("renews-{}", attributes.len());
        let (device, mut senders) = load.block_on(async {
            let device = running.enrol(&name, attributes).await;
            let senders = connections(&running.client(&device)).await;
            (device, senders)
        });
        let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let one = load.block_on(renewals(&mut senders, RENEWALS));
            let floor = std::thread::scope(|scope| {
                let bare = std::thread::Builder::new().name("bare".into());
                bare.spawn_scoped(scope, || bare_of(attributes, &device)).unwrap().join().unwrap()
            });
            ratios.push(one / floor);
            ours.push(one);
            least.push(floor);
        }
        let median = |values: &mut [f64]| quantile(values, 0.5);
        println!(
            "{:10}   {:26.3}   {:19.3}   {:.2} ({:.2} to {:.2})",
            attributes.len(),
            median(&mut ours),
            median(&mut least),
            median(&mut ratios),
            quantile(&mut ratios, 0.1),
            quantile(&mut ratios, 0.9),
        );
    }
}

fn bare_of(attributes: &[&str], device: &Device) -> f64 {
    bare(attributes, device, RENEWALS)
}

/// Runs `count` jobs, so many at a time, and prints rate, latency, and what each costs the authority.
fn flood<F>(load: &Runtime, what: &str, jobs: Vec<F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let count = jobs.len();
    let (cpu, start) = (authority_time(), Instant::now());
    let mut times: Vec<f64> = load.block_on(async {
        let room = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let mut work = JoinSet::new();
        for job in jobs {
            let room = room.clone();
            work.spawn(async move {
                let _one = room.acquire_owned().await.unwrap();
                let start = Instant::now();
                job.await;
                start.elapsed().as_secs_f64() * 1e3
            });
        }
        work.join_all().await
    });
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (authority_time() - cpu).as_secs_f64() * 1e3 / count as f64;
    println!(
        "{what}: {:.0} a second, p50 {:.1} ms, p99 {:.1} ms; {cpu:.2} ms of the authority's processor each",
        count as f64 / seconds,
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.99),
    );
}

/// Devices that enrol, each over a connection of its own; signing requests were made before.
fn enrolments(running: &Running, load: &Runtime) {
    let jobs = load.block_on(async {
        let (admin, anonymous) = (running.admin(), running.anonymous());
        let mut jobs = Vec::new();
        for number in 0..ENROLMENTS {
            let wanted = serde_json::json!({ "name": format!("new-{number}"), "attributes": ATTRIBUTES[1] });
            let made = admin.post("/v1/tokens", &wanted).await;
            let token = made.json::<smqtt_core::api::NewToken>().token;
            let keys = DeviceKeys::generate();
            let request = keys.request(&smqtt_core::token::Token::parse(&token).unwrap());
            let client = anonymous.clone();
            jobs.push(async move {
                let answer = client.post("/v1/enrol", &request).await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            });
        }
        jobs
    });
    flood(
        load,
        &format!("enrolments with 3 attributes, {CONNECTIONS} at a time, TLS handshakes included"),
        jobs,
    );
}

/// The bundle, over connections that stay open.
fn bundles(running: &Running, load: &Runtime) {
    let senders = load.block_on(async {
        let device = running.enrol("follows", ATTRIBUTES[1]).await;
        let client = running.client(&device);
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            senders.push(Arc::new(tokio::sync::Mutex::new(client.connect().await)));
        }
        senders
    });
    let jobs = (0..BUNDLES).map(|number| {
        let sender = senders[number % CONNECTIONS].clone();
        async move {
            let request = Request::get("/v1/bundle").header("host", "localhost");
            let request = request.body(Full::new(Bytes::new())).unwrap();
            let mut sender = sender.lock().await;
            sender.ready().await.unwrap();
            let answer = answer(sender.send_request(request).await.unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
    });
    flood(load, &format!("bundles over {CONNECTIONS} connections that stay open"), jobs.collect());
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let only = std::env::var("ONLY").unwrap_or_default();
    let (authority, load) = (runtime("authority"), runtime("load"));
    let running = authority.block_on(Running::start());
    println!("authority {} on {}", hex(&running.authority.fingerprint().0[..4]), running.address);
    if only.is_empty() || only == "renewals" {
        compare_renewals(&running, &load, rounds);
    }
    if only.is_empty() || only == "enrolments" {
        enrolments(&running, &load);
    }
    if only.is_empty() || only == "bundles" {
        bundles(&running, &load);
    }
    authority.block_on(running.stop());
}
