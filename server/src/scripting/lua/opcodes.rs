//! Whether a compiled function assigns to globals, from Lua 5.1's own dump of it (ldump.c).

/// `OP_SETGLOBAL` (lopcodes.h), in the lowest six bits of an instruction.
const SET_GLOBAL: u32 = 7;
const HEADER: [u8; 12] = [0x1B, b'L', b'u', b'a', 0x51, 0, 1, 4, 8, 4, 8, 0];
/// Functions within functions: Lua's parser allows 200 levels of syntax.
const DEPTH_MAX: usize = 250;

/// Whether the dump's function, or one within it, assigns to a global. Also where the dump is not as
/// expected, and for a few functions whose data looks like such an instruction.
pub(super) fn may_assign_globals(dump: &[u8]) -> bool {
    let Some(rest) = dump.strip_prefix(&HEADER) else { return true };
    let mut reader = Reader { rest };
    reader.function(DEPTH_MAX) != Some(false)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn int(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    }

    fn string(&mut self) -> Option<()> {
        let bytes = self.take(8)?.try_into().ok()?;
        self.take(usize::try_from(u64::from_ne_bytes(bytes)).ok()?)?;
        Some(())
    }

    /// Passes a function; whether it assigns to a global.
    fn function(&mut self, depth: usize) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        self.string()?;
        // Lines, then the numbers of upvalues, parameters and registers, and the variadic flag.
        self.take(4 + 4 + 4)?;
        let count = self.int()?;
        let code = self.take(count.checked_mul(4)?)?;
        let instructions = code.chunks_exact(4).filter_map(|bytes| bytes.try_into().ok());
        let mut assigns =
            instructions.map(u32::from_ne_bytes).any(|instruction| instruction & 63 == SET_GLOBAL);
        for _ in 0..self.int()? {
            match self.take(1)?[0] {
                0 => {}
                1 => _ = self.take(1)?,
                3 => _ = self.take(8)?,
                4 => self.string()?,
                _ => return None,
            }
        }
        for _ in 0..self.int()? {
            assigns |= self.function(depth)?;
        }
        let lines = self.int()?;
        self.take(lines.checked_mul(4)?)?;
        for _ in 0..self.int()? {
            self.string()?;
            self.take(4 + 4)?;
        }
        for _ in 0..self.int()? {
            self.string()?;
        }
        Some(assigns)
    }
}
