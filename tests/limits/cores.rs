//! Threads on the cores that settings name, as the system says.

use ashlar_tests::ask::{info, wait_for};
use ashlar_tests::process::Server;
use ashlar_tests::resp::Value;
use std::fs::{read_dir, read_to_string};

/// The cores that a process or thread may run on.
fn allowed(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.map(|list| list.trim().to_owned())
}

/// The cores of the server's threads of this name; those that end meanwhile do not count.
fn cores(server: &Server, name: &str) -> Vec<String> {
    let tasks = read_dir(format!("/proc/{}/task", server.pid())).expect("its threads");
    let of_thread = |task: std::fs::DirEntry| {
        let is_it = read_to_string(task.path().join("comm")).ok()?.trim() == name;
        if is_it { allowed(&read_to_string(task.path().join("status")).ok()?) } else { None }
    };
    tasks.flatten().filter_map(of_thread).collect()
}

#[test]
fn threads_run_on_the_cores_that_settings_name() {
    let all = allowed(&read_to_string("/proc/self/status").expect("a process")).expect("a list");
    let one = all.split([',', '-']).next_back().expect("a core").to_owned();
    let settings = ["--appendonly", "yes", "--io-threads", "2"];
    // A snapshot's thread is made by a worker, and stays on its cores where no setting says otherwise.
    let bound = ["--server-cpulist", &one, "--aof-rewrite-cpulist", &all];
    let server = Server::ashlar(&[&settings[..], &bound[..]].concat());
    for worker in ["ashlar-worker-0", "ashlar-worker-1"] {
        wait_for(worker, || cores(&server, worker) == [one.as_str()]);
    }
    for thread in ["ashlar-log", "ashlar-free"] {
        wait_for(thread, || cores(&server, thread) == [all.as_str()]);
    }
    let mut client = server.client();
    // Enough for a snapshot to take a while.
    for part in 0..100 {
        let words: Vec<String> = (0..2_000).map(|nth| format!("{part}:{nth}")).collect();
        let set = format!("MSET {}", words.join(" "));
        assert_eq!(client.line(&set).expect("a reply"), Value::Simple(b"OK".into()));
    }
    for (command, running, list) in [
        ("BGSAVE", "rdb_bgsave_in_progress", &one),
        ("BGREWRITEAOF", "aof_rewrite_in_progress", &all),
    ] {
        let mut seen = Vec::new();
        wait_for("the snapshot's thread", || {
            let started = client.line(command).expect("a reply");
            assert!(!started.is_error(), "{started:?}");
            while info(&mut client, running) == "1" {
                seen.extend(cores(&server, "ashlar-snapshot"));
            }
            // At first it has not bound itself yet.
            seen.last() == Some(list)
        });
    }
    let shown = client.line("CONFIG GET server-cpulist").expect("a reply");
    assert_eq!(shown.items().and_then(|items| items[1].bytes()), Some(one.as_bytes()));
    drop(server);

    let server = Server::ashlar(&[&settings[..], &["--bio-cpulist", &one]].concat());
    wait_for("its workers", || cores(&server, "ashlar-worker-0") == [all.as_str()]);
    for thread in ["ashlar-log", "ashlar-free"] {
        wait_for(thread, || cores(&server, thread) == [one.as_str()]);
    }
}
