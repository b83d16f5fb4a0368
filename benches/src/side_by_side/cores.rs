//! A core for the load client, and the others for the server.
//!
//! A client that spins between its batches keeps a core for itself. The system does not know that: it moves a
//! server's thread that the client wakes to the client's core, as if the client were about to sleep, and there it waits for
//! the client's turns of some 4 ms. Servers on another machine, or under `taskset`, do not see that.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The cores of this thread as they were, to which it goes back at the end.
pub struct Apart {
    all: CpuSet,
    client: CpuSet,
    server: CpuSet,
}

impl Apart {
    /// Divides this thread's cores; with one core both sides have it.
    pub fn new() -> Result<Apart, String> {
        let all = sched_getaffinity(None).map_err(|error| error.to_string())?;
        let (mut client, mut server) = (CpuSet::new(), all);
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core));
        client.set(last.ok_or("this process may run nowhere")?);
        if let (Some(last), true) = (last, all.count() > 1) {
            server.unset(last);
        }
        Ok(Apart { all, client, server })
    }

    /// Starts something that is to run on the server's cores; afterwards this thread, and those that it makes, are on
    /// the client's.
    pub fn start<T>(&self, start: impl FnOnce() -> T) -> Result<T, String> {
        bind(&self.server)?;
        let started = start();
        bind(&self.client)?;
        Ok(started)
    }

    /// Divides them between a server that runs already, with all of its threads, and this thread and those that it
    /// makes, while something is done.
    pub fn during<T>(&self, pid: u32, work: impl FnOnce() -> T) -> Result<T, String> {
        let confine = |cores: &CpuSet| {
            for task in
                std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
            {
                let id = task.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(id) = id.and_then(Pid::from_raw) {
                    // One that has ended meanwhile cannot be bound.
                    let _ = sched_setaffinity(Some(id), cores);
                }
            }
        };
        confine(&self.server);
        bind(&self.client)?;
        let result = work();
        confine(&self.all);
        bind(&self.all)?;
        Ok(result)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It could be bound before, so it can now.
        drop(bind(&self.all));
    }
}

fn bind(cores: &CpuSet) -> Result<(), String> {
    sched_setaffinity(None, cores).map_err(|error| error.to_string())
}
