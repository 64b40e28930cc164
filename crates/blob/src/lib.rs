//! Where message bodies lie: packs of sealed messages on S3 or on local disk.
//!
//! This crate owns three things and keeps each behind a narrow face:
//!
//! - the **pack format** (`docs/pack-format.md`): [`format`](mod@format) knows its octets, [`EntryScanner`]
//!   reads packs without any help from a footer or an index (P8);
//! - the **keys**: a [`MasterKey`] wraps a data key per tenant ([`Keyring`]), and every entry is sealed under
//!   a key of its own derived from it (P5);
//! - the **object stores**: [`ObjectStore`] is the low port, [`S3Store`] and [`DiskStore`] are its adapters,
//!   and [`BlobKey`] is the only thing that can name an object.
//!
//! [`Packs`] puts them together and is what the domain sees (`maildrop::port::BlobStore`).
//!
//! ```text
//!   write ─► 64 KiB chunks ─► zstd ─► AES-256-GCM ─► entry ─► pack ─► ObjectStore::put / upload
//!   read  ◄─ 64 KiB chunks ◄─ zstd ◄─ AES-256-GCM ◄─ frames ◄─ ranged GETs, resumed where they break off
//! ```

mod blob_key;
mod cache;
mod disk;
pub mod format;
mod keys;
mod object;
mod open;
mod own;
mod packs;
mod s3;
mod scan;
mod seal;
pub mod weather;
mod zip;

pub use blob_key::{BlobKey, BlobKeyError, BlobLayout};
pub use cache::{BlockCache, CacheConfig, CacheStats};
pub use disk::{DiskConfig, DiskStore};
pub use keys::{KeyWrap, Keyring, MasterKey, MasterKeyError, TenantKey};
pub use object::{LIST_PAGE, Listed, ObjectBody, ObjectPage, ObjectStore, Upload, collect};
pub use own::{Guard, OwnConfig, OwnStores};
pub use packs::{Packs, PacksConfig};
pub use s3::{ChecksumMode, S3Config, S3Store, StaticCredentials};
pub use scan::{Damage, EntryScanner, ScanItem, ScannedEntry, scan};
