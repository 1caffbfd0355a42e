//! What it costs to tell many subscribers of one change, beside a bare tonic broadcast of the same bytes over the same
//! connections, bare writes to as many sockets, and etcd's watch.
//!
//! Run by `scripts/bench push`, which names the directory of the built programs. Who pushes and who receives are
//! processes of their own; what counts is the CPU time of the one that pushes, all of it, while changes are under way,
//! and the time from the change to the last of the streams, which the receiving side on the same processors is part of.
//! Arguments: the file for the figures, and optionally how many rounds, and how many connections in the place of the usual
//! shapes, each with one stream.

#![expect(clippy::cast_precision_loss, reason = "counts and nanoseconds are far below 2^52")]

mod bare;
mod contender;
mod figures;
mod load;
mod reader;
mod wire;

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use contender::{Change, Contender, from_hex};
use figures::{Figures, Sample};
use load::Load;
use reader::Plan;
use serde_json::json;

type Fault = Box<dyn Error + Send + Sync>;

const ROUNDS: usize = 5;
/// Rounds that would begin later are left out, and the table says of how many it is: a machine that is busy with something
/// else must not make this take for ever. For all shapes together.
const BUDGET: Duration = Duration::from_mins(6);
/// Changes of each kind in a round.
const CHANGES: usize = 5;
/// Nodes of the cluster that is watched: enough for a turn each, since one that turns often is held.
const NODES: usize = 2 * CHANGES;
/// Connections, and streams of each: every program has a connection of its own, or many share one.
const SHAPES: [(usize, usize); 2] = [(100, 100), (10_000, 1)];
/// Nodes of the large cluster, and its streams.
const LARGE: (usize, usize) = (10_000, 100);

fn main() -> Result<(), Fault> {
    jcm_tests::process::end_children_with_a_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["bare-tonic", event] => Ok(bare::tonic(&Bytes::from(from_hex(event)))?),
        ["bare-socket", event] => Ok(bare::socket(&from_hex(event))?),
        ["read", ref plan @ ..] => Ok(reader::run(Plan::parse(plan).ok_or("a plan that cannot be read")?)?),
        [file] => compare(file, ROUNDS, None),
        [file, rounds] => compare(file, rounds.parse()?, None),
        [file, rounds, connections] => compare(file, rounds.parse()?, Some(connections.parse()?)),
        _ => Err("usage: bench_push FILE [ROUNDS [CONNECTIONS]]".into()),
    }
}

#[tokio::main]
async fn compare(file: &str, rounds: usize, only: Option<usize>) -> Result<(), Fault> {
    let mut figures = Figures::default();
    let shapes = only.map_or(SHAPES.to_vec(), |connections| vec![(connections, 1)]);
    let share = BUDGET / u32::try_from(shapes.len()).expect("few shapes");
    let (begun, mut until) = (Instant::now(), Duration::ZERO);
    for (connections, streams) in shapes {
        let shape = format!("{connections} x {streams}");
        // What one shape leaves of its time the next one has.
        until += share;
        for round_number in 0..rounds {
            if begun.elapsed() > until {
                println!("{shape}: {round_number} of {rounds} rounds, the time is up");
                break;
            }
            let jcm = Contender::jcm(NODES, "1s").await;
            let (jcm, event) = round(jcm, connections, streams, &[Change::Commit, Change::Turn]).await?;
            figures.add(&shape, "jcm, commit", &jcm[0]);
            figures.add(&shape, "jcm, turn", &jcm[1]);
            let mut anchors = vec![
                ("bare tonic", Contender::bare("bare-tonic", bare::PATH, &event)),
                ("etcd watch", Contender::etcd().await),
            ];
            if streams == 1 {
                anchors.push(("bare sockets", Contender::bare("bare-socket", "", &event)));
            }
            for (name, anchor) in anchors {
                let (samples, _) = round(anchor, connections, streams, &[Change::Commit]).await?;
                figures.add(&shape, name, &samples[0]);
            }
        }
        figures.print(&shape);
    }
    let (nodes, streams) = LARGE;
    let large = Contender::jcm(nodes, "10s").await;
    let (samples, _) = round(large, streams, 1, &[Change::Turn]).await?;
    let bytes = samples[0].bytes_an_event;
    println!(
        "\none turn in a cluster of {nodes} nodes: {bytes:.0} bytes a subscriber, with the framing of HTTP/2"
    );
    let all = json!({ "shapes": figures.to_json(), "bytes_of_a_turn_among_10000_nodes": bytes });
    std::fs::write(file, serde_json::to_string_pretty(&all)?)?;
    Ok(())
}

/// One contender, its streams, and all kinds of changes. Answers a sample for each kind, and an event's inner bytes.
async fn round(
    mut contender: Contender,
    connections: usize,
    streams: usize,
    changes: &[Change],
) -> Result<(Vec<Sample>, Vec<u8>), Fault> {
    let before = load::memory_bytes(contender.pid())?;
    let mut load = Load::start(&contender.plan(connections, streams)).await?;
    let idle = load.idle(contender.pid()).await?;
    let memory = load::memory_bytes(contender.pid())?.saturating_sub(before);
    let mut samples = Vec::new();
    let mut event = Vec::new();
    for change in changes {
        let sample = load.changes(&mut contender, *change, CHANGES).await?;
        event = contender::inner(&load.last_event);
        let memory_a_stream = memory as f64 / (connections * streams) as f64;
        samples.push(Sample { memory_a_stream, idle_micros_a_stream_second: idle, ..sample });
    }
    Ok((samples, event))
}
