//! What messages may take up while they come in: memory, past that a file of sealed octets, past that nobody
//! reads on (P6).

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use maildrop::port::{BlobError, SealedEntry, SealedOctets};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest wait for room. A client that waits longer than that for its message to be read has cause to think
/// that we died (RFC 5321 §4.5.3.2.5 gives three minutes between its chunks).
const ROOM_WAIT: Duration = Duration::from_mins(1);
/// Room is counted in so many octets.
const UNIT_OCTETS: usize = 1024;

/// The room of a node.
pub(super) struct Rooms {
    memory: Arc<Semaphore>,
    spool: Option<Spool>,
    /// Whoever holds this one goes on without room: among messages that all wait for more, one gets through,
    /// and gives back what it had.
    overdraft: Arc<Semaphore>,
    /// The same for a pack that is put together of what was spooled.
    pack_overdraft: Arc<Semaphore>,
}

struct Spool {
    dir: PathBuf,
    room: Arc<Semaphore>,
    /// Whether a file could not be made there.
    failed: AtomicBool,
}

impl Rooms {
    /// Room for `memory` octets in memory, and `spool` in files without names under its directory.
    pub(super) fn new(memory: usize, spool: Option<(PathBuf, u64)>) -> Self {
        let permits = |octets: usize| Arc::new(Semaphore::new(units(octets).min(Semaphore::MAX_PERMITS)));
        Self {
            memory: permits(memory),
            spool: spool.map(|(dir, octets)| Spool {
                dir,
                failed: AtomicBool::new(false),
                room: permits(usize::try_from(octets).unwrap_or(usize::MAX)),
            }),
            overdraft: Arc::new(Semaphore::new(1)),
            pack_overdraft: Arc::new(Semaphore::new(1)),
        }
    }

    /// Room in memory for `octets` that come from files, while they are put into a pack.
    pub(super) async fn for_pack(&self, octets: u64) -> Result<OwnedSemaphorePermit, BlobError> {
        let units = many(usize::try_from(octets).unwrap_or(usize::MAX));
        either(&self.memory, units, &self.pack_overdraft).await.map(|(permit, _)| permit)
    }

    /// Octets of memory that nobody holds now.
    pub(super) fn memory_free(&self) -> usize {
        self.memory.available_permits() * UNIT_OCTETS
    }
}

/// A part of the room that some messages may take up at most: those of one tenant with a store of its own, which may
/// stand still for long, or of all of these.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Semaphore>,
    /// As that of [`Rooms`].
    overdraft: Arc<Semaphore>,
}

impl Share {
    pub(crate) fn new(octets: usize) -> Self {
        let room = Semaphore::new(units(octets).clamp(1, Semaphore::MAX_PERMITS));
        Self { room: Arc::new(room), overdraft: Arc::new(Semaphore::new(1)) }
    }
}

/// What a message takes up of a share.
#[derive(Default)]
pub(super) struct OfShare {
    held: Held,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl OfShare {
    /// Waits until the message may take up so many octets in all.
    pub(super) async fn grow(&mut self, share: &Share, octets: usize) -> Result<(), BlobError> {
        let missing = units(octets).saturating_sub(self.held.units);
        if missing == 0 || self.overdraft.is_some() {
            return Ok(());
        }
        let wanted = u32::try_from(missing).unwrap_or(u32::MAX);
        match either(&share.room, wanted, &share.overdraft).await? {
            (permit, true) => self.held.add(permit, missing),
            (permit, false) => self.overdraft = Some(permit),
        }
        Ok(())
    }

    pub(super) fn permits(self) -> impl Iterator<Item = OwnedSemaphorePermit> {
        [self.held.permit, self.overdraft].into_iter().flatten()
    }
}

/// The room one message takes up.
#[derive(Default)]
pub(super) struct Room {
    memory: Held,
    spool: Held,
    file: Option<Spooled>,
    /// Held by whoever goes on without room.
    overdraft: Option<OwnedSemaphorePermit>,
}

/// Units of one of the rooms.
#[derive(Default)]
struct Held {
    permit: Option<OwnedSemaphorePermit>,
    units: usize,
}

impl Held {
    fn add(&mut self, permit: OwnedSemaphorePermit, units: usize) {
        self.units += units;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Gives back what is more than that.
    fn shrink(&mut self, units: usize) {
        let less = self.units.saturating_sub(units);
        self.units -= less;
        if let Some(held) = &mut self.permit {
            drop(held.split(less));
        }
    }
}

struct Spooled {
    file: File,
    octets: u64,
}

impl Room {
    /// Makes room for `more` octets beside those in `sealed`, which go to a file where memory has none left. After
    /// that nothing of those waits for room any more.
    pub(super) async fn grow(
        &mut self,
        rooms: &Rooms,
        sealed: &mut Vec<u8>,
        more: usize,
    ) -> Result<(), BlobError> {
        if self.file.is_some() {
            self.reserve(rooms, sealed.len() + more).await?;
            return self.spool(sealed).await;
        }
        let missing = units(sealed.len() + more).saturating_sub(self.memory.units);
        if missing == 0 || self.overdraft.is_some() {
            return Ok(());
        }
        let wanted = u32::try_from(missing).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&rooms.memory).try_acquire_many_owned(wanted) {
            self.memory.add(permit, missing);
            return Ok(());
        }
        if let Some(spool) = &rooms.spool
            && spool.room.available_permits() >= units(sealed.len() + more)
        {
            let dir = spool.dir.clone();
            match blocking(move || tempfile::tempfile_in(dir)).await {
                Ok(file) => {
                    self.file = Some(Spooled { file, octets: 0 });
                    self.reserve(rooms, sealed.len() + more).await?;
                    return self.spool(sealed).await;
                }
                // Said once: it would be with every message.
                Err(error) if !spool.failed.swap(true, Relaxed) => {
                    tracing::warn!(dir = %spool.dir.display(), %error, "cannot spool: messages wait instead");
                }
                Err(_) => {}
            }
        }
        match either(&rooms.memory, wanted, &rooms.overdraft).await? {
            (permit, true) => self.memory.add(permit, missing),
            (permit, false) => self.overdraft = Some(permit),
        }
        Ok(())
    }

    /// Room in the file for `more` octets beside those that it has.
    async fn reserve(&mut self, rooms: &Rooms, more: usize) -> Result<(), BlobError> {
        let (Some(spool), None) = (&rooms.spool, &self.overdraft) else { return Ok(()) };
        let missing = units(self.spooled().saturating_add(more)).saturating_sub(self.spool.units);
        if missing == 0 {
            return Ok(());
        }
        match either(&spool.room, u32::try_from(missing).unwrap_or(u32::MAX), &rooms.overdraft).await? {
            (permit, true) => self.spool.add(permit, missing),
            (permit, false) => self.overdraft = Some(permit),
        }
        Ok(())
    }

    /// Moves what is in `sealed` to the file, and gives back what it took up in memory.
    async fn spool(&mut self, sealed: &mut Vec<u8>) -> Result<(), BlobError> {
        let Some(spooled) = &mut self.file else { return Ok(()) };
        if sealed.is_empty() {
            return Ok(());
        }
        let octets = std::mem::take(sealed);
        let mut file = spooled.file.try_clone().map_err(|error| spool_failed(&error))?;
        let (written, mut octets) = blocking(move || {
            let written = file.write_all(&octets);
            Ok((written, octets))
        })
        .await
        .map_err(|error| spool_failed(&error))?;
        written.map_err(|error| spool_failed(&error))?;
        spooled.octets += octets.len() as u64;
        octets.clear();
        *sealed = octets;
        self.memory = Held::default();
        Ok(())
    }

    /// Octets in the file.
    pub(super) fn spooled(&self) -> usize {
        self.file.as_ref().map_or(0, |spooled| usize::try_from(spooled.octets).unwrap_or(usize::MAX))
    }

    /// Everything of the message so far, where some of it is in the file.
    pub(super) async fn take_spooled(&mut self, sealed: &[u8]) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(Spooled { file, octets }) = self.file.take() else { return Ok(None) };
        let mut all = read(file, octets).await?;
        all.extend_from_slice(sealed);
        Ok(Some(all))
    }

    /// The whole entry, with the room that it takes up until it is stored. Nothing is waited for where the end of the
    /// message was made room for.
    pub(super) async fn seal(mut self, rooms: &Rooms, mut sealed: Vec<u8>) -> Result<SealedEntry, BlobError> {
        if self.file.is_some() {
            self.reserve(rooms, sealed.len()).await?;
            self.spool(&mut sealed).await?;
            self.spool.shrink(units(self.spooled()));
        } else {
            // Compression has made less of it than was held.
            self.memory.shrink(units(sealed.len()));
        }
        let octets = match self.file {
            Some(Spooled { file, octets }) => SealedOctets::File { file, octets },
            None => SealedOctets::Memory(sealed),
        };
        let room = [self.memory.permit, self.spool.permit, self.overdraft].into_iter().flatten().collect();
        Ok(SealedEntry { octets, room })
    }
}

/// `units` of `room`, or else what goes without; and whether it is of the room.
async fn either(
    room: &Arc<Semaphore>,
    units: u32,
    without: &Arc<Semaphore>,
) -> Result<(OwnedSemaphorePermit, bool), BlobError> {
    let wait = async {
        tokio::select! {
            biased;
            permit = Arc::clone(room).acquire_many_owned(units) => permit.map(|permit| (permit, true)),
            permit = Arc::clone(without).acquire_owned() => permit.map(|permit| (permit, false)),
        }
    };
    match tokio::time::timeout(ROOM_WAIT, wait).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(closed)) => Err(BlobError::Unavailable(closed.to_string())),
        Err(_) => Err(BlobError::Unavailable("more comes in than can be stored".into())),
    }
}

/// Reads a spooled entry back.
pub(super) async fn read(mut file: File, octets: u64) -> Result<Vec<u8>, BlobError> {
    let read = move || {
        let mut all = Vec::with_capacity(usize::try_from(octets).unwrap_or(0));
        file.rewind()?;
        file.take(octets).read_to_end(&mut all)?;
        Ok(all)
    };
    let all = blocking(read).await.map_err(|error| spool_failed(&error))?;
    if all.len() as u64 != octets {
        return Err(BlobError::Unavailable("spool file is shorter than what was written".into()));
    }
    Ok(all)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn spool_failed(error: &std::io::Error) -> BlobError {
    BlobError::Unavailable(format!("spool: {error}"))
}

fn units(octets: usize) -> usize {
    octets.div_ceil(UNIT_OCTETS)
}

fn many(octets: usize) -> u32 {
    u32::try_from(units(octets)).unwrap_or(u32::MAX)
}
