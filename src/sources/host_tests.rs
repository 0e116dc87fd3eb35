//! The tables of /proc, and the source on the machine that runs the test.

use super::*;
use crate::event::RunName;
use crate::sources::channel::{ChannelLimits, Message, channel};

fn check<T: std::fmt::Debug + PartialEq>(parse: impl Fn(&str) -> Option<T>, text: &str, expected: Option<&T>) {
    assert_eq!(parse(text).as_ref(), expected, "{text:?}");
}

#[test]
fn cpu_ticks_are_busy_or_idle() {
    let stat = "cpu  10 1 5 100 20 2 3 4 9 0\ncpu0 5 1 3 50 10 1 2 2 5 0\ncpu1 5 0 2 50 10 1 1 2 4 0\nintr 7\n";
    let ticks = CpuTicks { busy: 25, idle: 120, cpu_count: 2 };
    check(parse_cpu, stat, Some(&ticks));
    check(parse_cpu, "cpu  1 2 3 4 5 6 7\n", None);
    check(parse_cpu, "cpu0 1 2 3 4 5 6 7 8\n", None);
    check(parse_cpu, "", None);
    let percent = |busy, idle| CpuTicks { busy, idle, ..ticks }.busy_percent(&ticks);
    assert_eq!(percent(26, 123), Some(25.0));
    assert_eq!(percent(25, 121), Some(0.0));
    assert_eq!(percent(35, 110), Some(100.0), "idle time that ran backwards");
    assert_eq!(percent(25, 120), None);
}

#[test]
fn load_memory_network_and_uptime() {
    let load = Load { averages: [0.5, 1.25, 2.0], tasks_running: 3, tasks: 412 };
    check(parse_load, "0.50 1.25 2.00 3/412 9876\n", Some(&load));
    check(parse_load, "0.50 1.25 2.00\n", None);
    check(parse_load, "0.50 x 2.00 3/412 9876\n", None);

    let memory = Memory { total_bytes: 4096, available_bytes: 2048, swap_total_bytes: 0, swap_free_bytes: 0 };
    check(parse_memory, "MemTotal:       4 kB\nMemFree: 1 kB\nMemAvailable:   2 kB\n", Some(&memory));
    let swap = Memory { swap_total_bytes: 8192, swap_free_bytes: 1024, ..memory };
    check(parse_memory, "MemTotal: 4 kB\nMemAvailable: 2 kB\nSwapTotal: 8 kB\nSwapFree: 1 kB\n", Some(&swap));
    check(parse_memory, "MemTotal: 4 kB\n", None);
    check(parse_memory, "MemTotal: 4\nMemAvailable: 2 kB\n", None);
    check(parse_memory, "MemTotal: 18446744073709551615 kB\nMemAvailable: 2 kB\n", None);

    let titles = "Inter-| Receive | Transmit\n face |bytes packets | bytes packets\n";
    let network = NetworkBytes { received: 1007, sent: 2009 };
    let lines = "    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 1000 9 0 0 0 0 0 0 2000 8 0 0 0 0 0 0\n\
                 wlan0:7 9 0 0 0 0 0 0 9 8 0 0 0 0 0 0\n";
    check(parse_network, &format!("{titles}{lines}"), Some(&network));
    check(parse_network, titles, Some(&NetworkBytes { received: 0, sent: 0 }));
    check(parse_network, &format!("{titles}eth0: 1 2 3\n"), None);

    check(parse_uptime, "12345.67 100.00\n", Some(&Duration::from_millis(12_345_670)));
    check(parse_uptime, "-1 2\n", None);
    check(parse_uptime, "\n", None);
}

#[test]
fn rates_are_per_second_and_never_negative() {
    assert_eq!(per_second(100, 1100, Duration::from_millis(500)), 2000);
    assert_eq!(per_second(1100, 100, Duration::from_secs(1)), 0);
    assert_eq!(per_second(0, 0, Duration::ZERO), 0);
}

#[test]
fn this_machine_has_every_field() {
    let (wake, woken) = crossbeam_channel::bounded(1);
    let (outlet, inbox) = channel(ChannelLimits::default(), move || _ = wake.try_send(()));
    let sequencer = Sequencer::new(RunName::from_bits(1), vec![outlet]);
    let status = SourceStatus::new("host");
    let topic = Topic::new("host").unwrap();
    let source = spawn(topic, sequencer, Arc::clone(&status), |_| json!({"connections": 7})).unwrap();
    woken.recv_timeout(Duration::from_secs(60)).unwrap();
    let Some(Message::Broadcast(broadcast)) = inbox.next() else { panic!("an event comes first") };
    assert!(status.is_up(), "{status:?}");
    drop(source);
    assert!(!status.is_up());
    let frame = String::from_utf8(broadcast.frame.bytes().to_vec()).unwrap();
    let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let fields: Map<String, Value> = serde_json::from_str(data).unwrap();
    let names = [
        "time_ms",
        "cpu_count",
        "load_1m",
        "tasks",
        "processes",
        "memory_total_bytes",
        "memory_used_bytes",
        "network_received_bytes_per_second",
        "uptime_seconds",
    ];
    for name in names {
        assert!(fields.get(name).is_some_and(Value::is_number), "{name} in {data}");
    }
    assert_eq!(fields["server"]["connections"], 7);
}
