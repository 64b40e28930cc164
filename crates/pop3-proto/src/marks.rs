//! The deletion marks of a session.

use crate::number::MessageNumber;

/// A set of message numbers. It takes no memory until the first DELE, then a bit per message.
#[derive(Debug, Default)]
pub(crate) struct DeletionMarks(Vec<u64>);

impl DeletionMarks {
    pub(crate) fn contains(&self, number: MessageNumber) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|marks| marks & bit != 0)
    }

    /// Marks the message; false if it was marked already.
    pub(crate) fn insert(&mut self, number: MessageNumber) -> bool {
        let (word, bit) = place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.iter().map(|marks| marks.count_ones()).sum()
    }

    /// The marked numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MessageNumber> + '_ {
        self.0.iter().enumerate().flat_map(|(word, &marks)| {
            let set = (0..64).filter(move |bit| marks & (1_u64 << bit) != 0);
            set.filter_map(move |bit| MessageNumber::from_index(word * 64 + bit))
        })
    }
}

fn place(number: MessageNumber) -> (usize, u64) {
    (number.index() / 64, 1_u64 << (number.index() % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_what_was_marked() {
        let mut marks = DeletionMarks::default();
        assert!(marks.is_empty() && marks.0.capacity() == 0);
        let numbers = [1, 64, 65, 1_000];
        for number in numbers.into_iter().rev().filter_map(MessageNumber::new) {
            assert!(marks.insert(number));
            assert!(!marks.insert(number), "marked twice");
            assert!(marks.contains(number));
        }
        assert_eq!(marks.iter().map(MessageNumber::get).collect::<Vec<_>>(), numbers);
        assert_eq!(marks.len(), 4);
        for number in [2, 63, 66, 999, 1_001, u32::MAX].into_iter().filter_map(MessageNumber::new) {
            assert!(!marks.contains(number));
        }
    }
}
