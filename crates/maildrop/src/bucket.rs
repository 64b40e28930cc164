//! Stores of a tenant's own: buckets that its packs lie in instead of the house's.
//!
//! A tenant may have had several. Each has a number, which is part of the identity of each pack in it
//! ([`PackId::store`](crate::PackId::store)): whoever has a pack's identity knows where it is.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{SealedKey, SecretText, StoreNumber};

/// A bucket of a tenant's own, as it is set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// The bucket's name.
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 255, pattern = "^[A-Za-z0-9._-]+$"))]
    pub bucket: String,
    /// Put in front of every key. Default: nothing.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_length = 512))]
    pub prefix: String,
    /// The region. Default: that of the endpoint, `us-east-1`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_length = 100))]
    pub region: Option<String>,
    /// The server's URL, `https://` unless the operator lets tenants' buckets be reached in the clear. Default:
    /// Amazon's, by region.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_length = 500))]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path instead of the host's name. Default: yes with an endpoint.
    #[serde(default)]
    pub force_path_style: Option<bool>,
    /// The access key.
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 200))]
    pub access_key_id: String,
    /// The secret of the access key. It is never shown.
    #[cfg_attr(feature = "schema", schema(value_type = String, write_only, min_length = 1, max_length = 1000))]
    pub secret_access_key: SecretText,
}

impl BucketSettings {
    /// Where it is.
    pub fn place(&self) -> BucketPlace {
        BucketPlace {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            force_path_style: self.force_path_style,
            access_key_id: self.access_key_id.clone(),
        }
    }
}

/// Where a bucket is, and by which access key it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BucketPlace {
    /// The bucket's name.
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 255, pattern = "^[A-Za-z0-9._-]+$"))]
    pub bucket: String,
    /// Put in front of every key. Default: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schema(max_length = 512))]
    pub prefix: String,
    /// The region. Default: that of the endpoint, `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100))]
    pub region: Option<String>,
    /// The server's URL, `https://` unless the operator lets tenants' buckets be reached in the clear. Default:
    /// Amazon's, by region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 500))]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path instead of the host's name. Default: yes with an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,
    /// The access key.
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 200))]
    pub access_key_id: String,
}

impl BucketPlace {
    /// Whether the same objects are there, whoever asks for them.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place =
            |of: &Self| (of.bucket.clone(), of.prefix.clone(), of.region.clone(), of.endpoint.clone());
        place(self) == place(other)
    }
}

/// A store that a tenant has, or had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBucket {
    /// Where it is.
    #[serde(flatten)]
    pub place: BucketPlace,
    /// Since when it is known.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Since when new packs go elsewhere, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub left_at: Option<OffsetDateTime>,
}

/// All stores of a tenant's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Buckets {
    /// Where new packs go.
    pub current: StoreNumber,
    /// The number that was given last. None is given twice.
    pub last: StoreNumber,
    /// Those that packs may lie in.
    pub known: BTreeMap<u16, KnownBucket>,
}

impl Buckets {
    /// The store with this number; none for the house's, and for those that are forgotten.
    pub fn get(&self, number: StoreNumber) -> Option<&KnownBucket> {
        self.known.get(&number.0)
    }

    /// Lets new packs go to `place`, a store that is known or a new one, and gives its number; none where there are
    /// no numbers left.
    pub fn turn_to(&mut self, place: BucketPlace, at: OffsetDateTime) -> Option<StoreNumber> {
        let known = self.known.iter().find(|(_, known)| known.place.is_same_place(&place));
        let number = match known {
            Some((number, _)) => StoreNumber(*number),
            None if self.last >= StoreNumber::MAX => return None,
            None => StoreNumber(self.last.0 + 1),
        };
        if number != self.current {
            self.leave(at);
        }
        self.last = self.last.max(number);
        let since = self.known.get(&number.0).map_or(at, |known| known.since);
        self.known.insert(number.0, KnownBucket { place, since, left_at: None });
        self.current = number;
        Some(number)
    }

    /// Lets new packs go to the house's store.
    pub fn leave(&mut self, at: OffsetDateTime) {
        if let Some(known) = self.known.get_mut(&self.current.0) {
            known.left_at = Some(at);
        }
        self.current = StoreNumber::HOUSE;
    }
}

/// A tenant's stores as the directory keeps them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TenantBuckets {
    /// Which there are.
    pub buckets: Buckets,
    /// A key of the tenant's that is for their secrets alone, sealed under the master key: unlike the data key it
    /// outlives the beginning of the tenant's deletion, which needs them.
    pub key: Option<SealedKey>,
    /// The secrets, by number, sealed under it.
    pub secrets: Option<Vec<u8>>,
    /// Grows with each change; 0 where nothing was ever set.
    pub version: i64,
}

impl fmt::Debug for TenantBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantBuckets")
            .field("buckets", &self.buckets)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn numbers_are_never_given_twice() {
        let at = datetime!(2026-11-23 9:00 UTC);
        let place = |name: &str| BucketPlace { bucket: name.into(), ..BucketPlace::default() };
        let mut buckets = Buckets::default();
        assert_eq!(buckets.turn_to(place("a"), at), Some(StoreNumber(1)));
        assert_eq!(buckets.turn_to(place("b"), at), Some(StoreNumber(2)));
        assert_eq!(buckets.get(StoreNumber(1)).unwrap().left_at, Some(at));
        let rotated = BucketPlace { access_key_id: "other".into(), ..place("a") };
        assert_eq!(buckets.turn_to(rotated.clone(), at), Some(StoreNumber(1)), "the same place");
        assert_eq!(buckets.get(StoreNumber(1)).unwrap().place, rotated);
        assert_eq!(buckets.get(StoreNumber(1)).unwrap().left_at, None);
        buckets.leave(at);
        assert!(buckets.current.is_house());
        buckets.known.clear();
        assert_eq!(buckets.turn_to(place("c"), at), Some(StoreNumber(3)));
        buckets.last = StoreNumber::MAX;
        assert_eq!(buckets.turn_to(place("d"), at), None);
    }
}
