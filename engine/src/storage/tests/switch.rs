//! The log is turned on and off at work, and the machine ends at every operation of that.

use super::*;

/// What a run knows: the state after each command, and which of them is promised.
#[derive(Default)]
struct Known {
    states: Vec<u64>,
    durable: usize,
}

/// One life with two begins and an end of the log, as far as the disk lets it.
fn live(disk: &SimDisk, seed: u64, known: &mut Known) -> Result<(), String> {
    let opened = open(disk, seed, &options(false));
    let (storage, _) = match opened {
        Ok(opened) => opened,
        Err(_) if disk.is_stopped() => return Ok(()),
        Err(error) => return Err(format!("the directory does not open: {error}")),
    };
    let random = std::cell::RefCell::new(Rng::new(seed));
    let states = std::cell::RefCell::new(std::mem::take(&mut known.states));
    states.borrow_mut().push(storage.engine().digest());
    let act = || {
        let mut executor = storage.engine().executor();
        run(&mut executor, &line(&mut random.borrow_mut()), 1);
        executor.release();
        states.borrow_mut().push(storage.engine().digest());
        let synced = storage.log().is_some_and(|log| log.sync().is_ok());
        synced.then(|| states.borrow().len() - 1)
    };
    let snapshot = || -> Result<usize, StorageError> {
        let mut at = 0;
        let cut = || at = states.borrow().len() - 1;
        let saved = storage.snapshot(7, cut, || {
            act();
            true
        });
        saved.map(|_| at)
    };
    let mut durable = known.durable;
    let work = |durable: &mut usize| -> Result<(), StorageError> {
        (0..4).for_each(|_| _ = act());
        *durable = snapshot()?;
        (0..3).for_each(|_| _ = act());
        for _ in 0..2 {
            if storage.has_old_log() {
                *durable = snapshot()?;
            }
            storage.prepare_log(4096, false)?;
            act();
            let at = snapshot()?;
            storage.confirm_log()?;
            *durable = at;
            for _ in 0..6 {
                *durable = act().unwrap_or(*durable);
            }
            storage.end_log()?;
            (0..3).for_each(|_| _ = act());
        }
        Ok(())
    };
    let worked = work(&mut durable);
    known.durable = durable;
    known.states = states.into_inner();
    match worked {
        Err(error) if !disk.is_stopped() => Err(format!("the disk is well: {error}")),
        _ => Ok(()),
    }
}

fn check(disk: &SimDisk, seed: u64, log: bool, known: &Known) -> Result<(), String> {
    let (storage, _) = open(disk, seed, &options(log)).map_err(|error| error.to_string())?;
    let digest = storage.engine().digest();
    let promised = known.states.get(known.durable..).unwrap_or_default();
    // Before the first command of all nothing is promised but the empty engine.
    let empty = Engine::with_options(EngineOptions::default()).digest();
    if promised.contains(&digest) || known.durable == 0 && digest == empty {
        return Ok(());
    }
    Err(format!("the state is none of those from {} on", known.durable))
}

#[test]
fn a_machine_that_ends_while_the_log_is_turned_on_or_off_loses_nothing() {
    let mut runs = 0;
    for seed in 0..3 {
        let (disk, mut known) = (SimDisk::new(seed), Known::default());
        live(&disk, seed, &mut known).unwrap();
        for loss in LOSSES {
            for stop in 1..=disk.operations() {
                let (disk, mut known) = (SimDisk::new(seed), Known::default());
                disk.stop_at(stop);
                let lived = live(&disk, seed, &mut known);
                disk.stop();
                let after = disk.reboot(loss, seed);
                let checked = check(&after, seed, stop % 2 == 0, &known);
                if let Err(error) = lived.and(checked) {
                    panic!("seed {seed}, stop {stop}, {loss:?}: {error}");
                }
                runs += 1;
            }
        }
    }
    assert!(runs > 500, "only {runs} ends were tried");
}
