//! Cuts the power under a program, as far as its files can tell.
//!
//! The program runs in a child process on a file system of its own, in an image behind a loop device.
//! At the cut it is stopped and the image is copied: what is only in the page cache of that file
//! system, because nothing has forced it to disk, is not in the copy. The copy is mounted, and what
//! the program had acknowledged must be there. `kill -9` does not find what this finds.
//!
//! It needs root, loop devices and ext4's tools.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Size of the image.
const IMAGE_BYTES: u64 = 160 << 20;

/// A file system that can lose its power.
pub struct Rig {
    folder: PathBuf,
    mounted: bool,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the folder of a test is plain text")
}

impl Rig {
    /// Makes an empty file system.
    ///
    /// # Errors
    /// If the machine has no loop devices, or the process may not mount them.
    pub fn new(name: &str) -> Result<Rig, String> {
        let folder = std::env::temp_dir().join(format!("ashlar-cut-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("mount")).map_err(|error| error.to_string())?;
        let mut rig = Rig { folder, mounted: false };
        let file = std::fs::File::create(rig.image()).map_err(|error| error.to_string())?;
        file.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", text(&rig.image())])?;
        rig.mount()?;
        Ok(rig)
    }

    fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// The folder of the file system.
    pub fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(&self.image()), text(&self.mount_point())])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        if self.mounted {
            run("umount", &[text(&self.mount_point())])?;
            self.mounted = false;
        }
        Ok(())
    }

    /// Runs `child`, cuts the power after it has acknowledged something and `after` has passed, and
    /// returns the last line that it wrote to its output before. What is in the file system now
    /// is what the cut left.
    ///
    /// # Errors
    /// If the child ends by itself, or the machine fails.
    pub fn cut(&mut self, child: &mut Command, after: Duration) -> Result<String, String> {
        let spawned = child.stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| error.to_string())?;
        let output = child.stdout.take().ok_or("the child has no output")?;
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let first = lines.recv_timeout(Duration::from_secs(60));
        let mut last = first.map_err(|_| "the child acknowledged nothing".to_owned())?;
        std::thread::sleep(after);
        let pid = child.id().to_string();
        run("kill", &["-STOP", &pid])?;
        // What it wrote before it was stopped is in the pipe.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(30)) {
            last = line;
        }
        let copy = self.folder.join("copy");
        let copied = run("cp", &["--sparse=always", text(&self.image()), text(&copy)]);
        child.kill().map_err(|error| error.to_string())?;
        let status = child.wait().map_err(|error| error.to_string())?;
        if status.code().is_some() {
            return Err(format!("the child ended by itself: {status}"));
        }
        drop(reader.join());
        copied?;
        self.unmount()?;
        std::fs::rename(&copy, self.image()).map_err(|error| error.to_string())?;
        self.mount()?;
        Ok(last)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("the file system of a test stays mounted: {error}");
            return;
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
