//! Who a node is, in a file of its own.
//!
//! ```text
//! node   name [20] | cluster [20] | number u64 | witness u8 | CRC-32C u32
//! ```

use crate::bytes::push_u64;
use crate::node::NodeId;
use ashlar_engine::disk::{Disk, Mode};
use std::io;
use std::path::Path;

/// Who a node is: what it has to know before its log can tell it anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: [u8; 20],
    pub me: NodeId,
    pub cluster: [u8; 20],
    pub witness: bool,
}

impl Identity {
    pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Identity>> {
        let file = match disk.open(path, Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; 53];
        ashlar_engine::disk::read_exact_at(&*file, &mut bytes, 0)?;
        let crc = bytes.split_off(49);
        if crc32c::crc32c(&bytes).to_le_bytes() != *crc {
            return Err(io::Error::other(format!("{} is damaged", path.display())));
        }
        let mut identity = Identity::default();
        identity.name.copy_from_slice(&bytes[..20]);
        identity.cluster.copy_from_slice(&bytes[20..40]);
        let mut me = [0; 8];
        me.copy_from_slice(&bytes[40..48]);
        identity.me = NodeId::from_le_bytes(me);
        identity.witness = bytes[48] != 0;
        Ok(Some(identity))
    }

    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut bytes = self.name.to_vec();
        bytes.extend_from_slice(&self.cluster);
        push_u64(&mut bytes, self.me);
        bytes.push(u8::from(self.witness));
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        ashlar_engine::disk::replace(disk, dir, "node", &bytes)
    }
}
