//! Compression of single chunks, with contexts that live as long as their thread.
//!
//! A zstd context at level 3 is about a megabyte and costs tens of microseconds to make, more than a small
//! message costs to compress. Runtime threads are few and never yield inside these functions, so one context
//! per thread is both enough and bounded.

use std::{cell::RefCell, io};

use zstd::bulk::{Compressor, Decompressor};

struct Squeezer {
    level: i32,
    compressor: Compressor<'static>,
}

thread_local! {
    static SQUEEZER: RefCell<Option<Squeezer>> = const { RefCell::new(None) };
    static EXPANDER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends `plain` compressed to `out` and says how many octets that took; `None`, with `out` as it was,
/// where that would not save anything.
pub(crate) fn compress(level: i32, plain: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    // zstd runs its fast path when the room suffices for the worst case.
    out.resize(start + zstd::zstd_safe::compress_bound(plain.len()), 0);
    let room = &mut out[start..];
    let written = SQUEEZER.with_borrow_mut(|slot| -> io::Result<usize> {
        let squeezer = match slot {
            Some(squeezer) => squeezer,
            None => slot.insert(Squeezer { level, compressor: Compressor::new(level)? }),
        };
        if squeezer.level != level {
            squeezer.compressor.set_compression_level(level)?;
            squeezer.level = level;
        }
        squeezer.compressor.compress_to_buffer(plain, room)
    });
    match written {
        Ok(written) if written < plain.len() => {
            out.truncate(start + written);
            Some(written)
        }
        // A compressor that fails costs space, not mail: the chunk is stored as it is.
        Ok(_) | Err(_) => {
            out.truncate(start);
            None
        }
    }
}

/// Expands what [`compress`] made of exactly `plain_octets` octets, allocating no more than that.
pub(crate) fn expand(packed: &[u8], plain_octets: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(plain_octets);
    let written = EXPANDER.with_borrow_mut(|slot| -> io::Result<usize> {
        let expander = match slot {
            Some(expander) => expander,
            None => slot.insert(Decompressor::new()?),
        };
        expander.decompress_to_buffer(packed, &mut plain)
    });
    match written {
        Ok(written) if written == plain_octets => Some(plain),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_after_other_octets() {
        let mut out = b"head".to_vec();
        let plain = b"Subject: hello\r\n".repeat(100);
        let packed = compress(3, &plain, &mut out).unwrap();
        assert_eq!(out.len(), 4 + packed);
        assert_eq!(expand(&out[4..], plain.len()).unwrap(), plain);
        assert!(expand(&out[4..], plain.len() - 1).is_none());
        assert!(expand(&out[4..], plain.len() + 1).is_none());
        assert!(expand(&out[5..], plain.len()).is_none());
    }

    #[test]
    fn what_does_not_shrink_leaves_the_buffer_alone() {
        let mut out = b"head".to_vec();
        assert_eq!(compress(3, b"x", &mut out), None);
        assert_eq!(compress(3, b"", &mut out), None);
        assert_eq!(out, b"head");
    }
}
