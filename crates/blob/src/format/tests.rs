//! Version 1 is pinned here: what it wrote must be read for ever.

use std::{fmt::Write, sync::Arc};

use maildrop::{BulletinEnvelope, BulletinId, Digest, EntryEnvelope, MailboxId, Measured, PackId, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::{ScanItem, ScannedEntry, TenantKey, packs::PackBuilder, scan, seal::EntrySealer};

const SMALL: &[u8] = b"Subject: hi\r\n\r\nhello\r\n";

fn ids() -> (TenantId, PackId) {
    (TenantId::from_uuid(Uuid::from_bytes([1; 16])), PackId::from_uuid(Uuid::from_bytes([2; 16])))
}

fn envelope() -> EntryEnvelope {
    EntryEnvelope {
        received_at: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap(),
        sender: "s@a.test".into(),
        recipients: vec![(MailboxId::from_uuid(Uuid::from_bytes([3; 16])), "r@b.test".into())],
        bulletin: None,
    }
}

fn measured(message: &[u8]) -> Measured {
    Measured {
        octets: message.len() as u64,
        header_octets: 15,
        digest: Digest(*blake3::hash(message).as_bytes()),
    }
}

fn pack(message: &[u8]) -> Vec<u8> {
    let (tenant, pack) = ids();
    let key = TenantKey::fixed(4);
    let mut sealer = EntrySealer::with_salt(tenant, &key, 3, &envelope(), [5; SALT_OCTETS]).unwrap();
    sealer.write(message).unwrap();
    sealer.finish(measured(message)).unwrap();
    let mut builder = PackBuilder::new(tenant, pack, 1, 0);
    builder.push(sealer.sealed());
    builder.finish().to_vec()
}

fn hex(octets: &[u8]) -> String {
    let mut digits = String::new();
    for octet in octets {
        write!(digits, "{octet:02x}").unwrap();
    }
    digits.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[track_caller]
fn check_reads(octets: &[u8], message: &[u8]) {
    let (tenant, pack) = ids();
    let length =
        octets.len() - PACK_HEADER_OCTETS - FOOTER_HEAD_OCTETS - FOOTER_ENTRY_OCTETS - TRAILER_OCTETS;
    let expected = ScannedEntry {
        offset: PACK_HEADER_OCTETS as u64,
        length: length as u64,
        envelope: envelope(),
        measured: measured(message),
    };
    assert_eq!(scan(tenant, Arc::new(TenantKey::fixed(4)), pack, octets), [ScanItem::Entry(expected)]);
}

#[test]
fn a_pack_of_one_small_message_is_these_octets() {
    let golden = include_str!("golden/small.hex");
    assert_eq!(hex(&pack(SMALL)), golden.trim());
    check_reads(&unhex(golden), SMALL);
}

/// Only read, never compared: another version of zstd may compress otherwise.
#[test]
fn a_compressed_pack_of_version_1_is_read() {
    check_reads(&unhex(include_str!("golden/compressed.hex")), &compressible());
}

fn compressible() -> Vec<u8> {
    let mut message = String::from("Subject: hi\r\n\r\n");
    for i in 0..6000 {
        write!(message, "line {i}\r\n").unwrap();
    }
    message.into_bytes()
}

/// `docs/pack-format.md` shows the small pack; it must be the one that is tested.
#[test]
fn the_document_shows_the_golden_pack() {
    let document = include_str!("../../../../docs/pack-format.md");
    assert!(document.contains(include_str!("golden/small.hex").trim()));
}

#[test]
fn frame_headers_out_of_bounds_are_refused() {
    let good = FrameHeader {
        kind: FrameKind::Body,
        compressed: false,
        plain_octets: 10,
        sealed_octets: 10 + TAG_OCTETS as u32,
    };
    assert_eq!(FrameHeader::parse(&good.to_octets()), Ok(good));
    let bad = |change: fn(&mut FrameHeader)| {
        let mut header = good;
        change(&mut header);
        assert!(FrameHeader::parse(&header.to_octets()).is_err(), "{header:?}");
    };
    bad(|h| h.plain_octets = 0);
    bad(|h| h.plain_octets = 11);
    bad(|h| h.compressed = true);
    bad(|h| h.sealed_octets = 15);
    bad(|h| h.sealed_octets = u32::MAX);
    bad(|h| (h.plain_octets, h.sealed_octets) = (65_537, 65_553));
    bad(|h| (h.kind, h.plain_octets, h.sealed_octets) = (FrameKind::Envelope, 4_194_305, 4_194_321));
    bad(|h| h.kind = FrameKind::Summary);
}

#[test]
fn envelopes_round_trip_and_odd_ones_are_refused() {
    let octets = encode_envelope(&envelope()).unwrap();
    assert_eq!(decode_envelope(&octets), Ok(envelope()));
    for cut in 0..octets.len() {
        assert!(decode_envelope(&octets[..cut]).is_err(), "cut at {cut}");
    }
    let many = vec![(MailboxId::generate(), "x".repeat(300)); 20_000];
    assert!(encode_envelope(&EntryEnvelope { recipients: many, ..envelope() }).is_err());
    let mut counts_too_many = octets;
    let at = counts_too_many.len() - 28 - 4;
    counts_too_many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode_envelope(&counts_too_many).is_err());
}

fn bulletin() -> EntryEnvelope {
    EntryEnvelope {
        sender: String::new(),
        recipients: Vec::new(),
        bulletin: Some(BulletinEnvelope {
            id: BulletinId::from_uuid(Uuid::from_bytes([6; 16])),
            new_mailboxes: true,
            expires_at: Some(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()),
            note: "news".into(),
        }),
        ..envelope()
    }
}

/// `docs/pack-format.md` shows these octets.
#[test]
fn the_envelope_of_a_bulletin_is_these_octets() {
    let golden = include_str!("golden/bulletin.hex");
    assert_eq!(hex(&encode_envelope(&bulletin()).unwrap()), golden.trim());
    assert_eq!(decode_envelope(&unhex(golden)), Ok(bulletin()));
    assert!(include_str!("../../../../docs/pack-format.md").contains(golden.trim()));
}

#[test]
fn envelopes_of_bulletins_round_trip_and_odd_ones_are_refused() {
    let octets = encode_envelope(&bulletin()).unwrap();
    for cut in 0..octets.len() {
        assert!(decode_envelope(&octets[..cut]).is_err(), "cut at {cut}");
    }
    assert!(decode_envelope(&[&octets[..], &[0]].concat()).is_err());
    let for_ever = |new_mailboxes, expires_at| {
        let of = bulletin().bulletin.map(|of| BulletinEnvelope { new_mailboxes, expires_at, ..of });
        EntryEnvelope { bulletin: of, ..bulletin() }
    };
    for envelope in [
        for_ever(false, None),
        for_ever(true, None),
        for_ever(false, bulletin().bulletin.unwrap().expires_at),
    ] {
        assert_eq!(decode_envelope(&encode_envelope(&envelope).unwrap()), Ok(envelope));
    }
    // An unknown flag, and a time that cannot be.
    for (at, octet) in [(36, 2), (36, 0x81), (44, 0x7f)] {
        let mut odd = octets.clone();
        assert_eq!(odd[36], 1, "the flags");
        odd[at] = octet;
        assert!(decode_envelope(&odd).is_err(), "octet {at} is {octet}");
    }
    // It is to everybody or to some.
    let both = EntryEnvelope { recipients: envelope().recipients, ..bulletin() };
    assert!(encode_envelope(&both).is_err());
}
