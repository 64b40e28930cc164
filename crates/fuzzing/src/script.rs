//! An input, taken apart: choices that steer the target, and octets that go in.

/// Octets of choices that an input begins with.
const HEAD_OCTETS: usize = 32;

/// An input. It begins with choices: 8 octets for how things are set up, 8 for how the rest is cut into pieces, 16 for
/// what those asked will answer; the last two are gone through again and again. The rest is what a peer sends. So a
/// text file behind 32 octets is a good input, and a mutation of one octet changes one thing.
#[derive(Clone, Copy)]
pub(crate) struct Script<'a> {
    pub(crate) setup: [u8; 8],
    sizes: [u8; 8],
    answers: [u8; 16],
    pub(crate) rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// Takes an input apart. One that is too short is of no interest.
    pub(crate) fn new(input: &'a [u8]) -> Option<Self> {
        let (head, rest) = input.split_first_chunk::<HEAD_OCTETS>()?;
        let (setup, head) = head.split_first_chunk()?;
        let (sizes, head) = head.split_first_chunk()?;
        Some(Self { setup: *setup, sizes: *sizes, answers: *head.first_chunk()?, rest })
    }

    /// The bit of this number among those of the setup.
    pub(crate) fn bit(&self, number: usize) -> bool {
        self.setup[number / 8] >> (number % 8) & 1 == 1
    }

    /// Octets in pieces: each of so many as the next choice says, all that are left for 0.
    pub(crate) fn pieces<'b>(&self, octets: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let mut sizes = self.sizes.into_iter().cycle();
        let mut left = octets;
        std::iter::from_fn(move || {
            let size = match sizes.next() {
                Some(0) | None => left.len(),
                Some(size) => usize::from(size).min(left.len()),
            };
            let (piece, rest) = left.split_at(size);
            left = rest;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// What those asked will answer, one after the other.
    pub(crate) fn answers(&self) -> impl Iterator<Item = u8> + use<> {
        self.answers.into_iter().cycle()
    }
}
