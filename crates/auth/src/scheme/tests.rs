//! The hashes were made by `doveadm pw` 2.3.19 (those with a name in braces) and by glibc's crypt(3).

use proptest::prelude::*;

use super::*;

const ASCII: &str = "correct horse";
const OTHER: &str = "pässwörd ☃";

const HASHES: [(&str, &str); 22] = [
    (ASCII, "{BLF-CRYPT}$2y$05$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsxia"),
    (OTHER, "{BLF-CRYPT}$2y$05$i8iLltocuUmBwnTVeB8FnORysSNf8KXOmqfPKTjhVeB29PJ2EGZAW"),
    // From the tests of jBCrypt.
    ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
    ("abcdefghijklmnopqrstuvwxyz", "$2a$08$aTsUwsyowQuzRrDqFflhgekJ8d9/7Z3GV3UcgvzQW3J5zMyrTvlz."),
    (ASCII, "$2b$12$sUbsHWY25lS4DRuafq8wPOIklSNbU5QzxG0NgqBkPCvIR.SfUV1ru"),
    (
        ASCII,
        "{SHA512-CRYPT}$6$GMveYc96NDxO6zrI$hEWTqmzbuuA7.xVic/jIKOpfxQl/AVqqZwRmCIR6WbGnpzg5wl.VqD0YVzHCmE2gorWYga5GOdM2aTynIf8ng.",
    ),
    (
        OTHER,
        "{sha512-crypt}$6$6nDGiNmU1md3F8Ch$7X9vOvnunWaoyQUgUdkNtQ4.son1OTWSXMU7t0alx5c1Zs58qayBx.xaA7u7vgZPRp5ftUcb4UCgXCnc5HOjQ.",
    ),
    (
        ASCII,
        "{SHA512-CRYPT}$6$rounds=10000$4Ld7LxpXHac8wL8T$43glNTvl1l8J6QZTly12WcS1UOi2UWKMepKni0j1OQoF0acToMc1ghd2YyUKpDtMq6NpGieK4ClfJMj0Ae7.F.",
    ),
    (
        ASCII,
        "$6$FYJpAq0bmG6/eJSL$T1n7JNrwFAvhqxPYsBrrFx0vmVUBp3Ko10eWlSei7WHQPVeX5hvkXdRo1fetriZdMpMhRUWqqkJTDtXf2lvha/",
    ),
    (ASCII, "{SHA256-CRYPT}$5$4NuhyzyXuf4wr682$rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM.."),
    (OTHER, "{SHA256-CRYPT}$5$UF36oyKyYB7OvE5a$HZ4uzFYV7QRtyvHPpB00smVJRVtZ52W3s/qjgjHH7i5"),
    (ASCII, "{CRYPT}$5$pmwiGR5r/91R1g3b$vmGzWeiUNnOMC2MtgkEiITKXqlOg/f3eDzdaH1I/L/C"),
    (ASCII, "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo"),
    (OTHER, "{SSHA}li8aYxDfn470FGRmwC6zthv9FdX5OKw6"),
    (
        ASCII,
        "{SSHA512}KmBZnV8nYc4pUWtwHu0LRpX1J6e/Ik6pYkf9TK9hhFiqOUU6GP2qjgD0OAQbeehkhgbjqJULT/ohYWFyE/hFmlEFvCA=",
    ),
    (
        OTHER,
        "{SSHA512}tkO/F4UQTvs9sapuqnTpCG3gRSWpHS5kGoQCkjmdzgh4zdBG+TxLeB5gmlVYOlGgps++5s6NphmjDtPlptAk8pLMyV8=",
    ),
    (ASCII, "{PBKDF2}$1$nnXgpxFTLpAH7ytW$5000$297d76dacd1904c8452ad9ab47dd0e75d7cd5430"),
    (OTHER, "{PBKDF2}$1$jNfJTPVtjKZmBsKu$5000$ee89387fc23c44666848a6b6af00c6f2bf1184b3"),
    (
        ASCII,
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$xqcr+RdNOxJaztqxzVhjWQ$1Uu0fi7vA7MzRWoWV7ZTdolzccrusjMM4Jq0PF30/l4",
    ),
    (
        OTHER,
        "$argon2id$v=19$m=65536,t=3,p=1$6rzAWzqKaQcCDk8Ypnlr9Q$XRpcy+LezKbjnB2AovUKvOBNO8g5gUXMxY11ovuBCGk",
    ),
    (
        ASCII,
        "{SCRAM-SHA-256}4096,IM3GCaHLbdPAzs3l6NJzAg==,Nv8lL3dXdSnvxRDtUIzyt4aEAx59nNKCi+v3YH/tUVI=,V6uWvSHPs67ThqOXU3o+Kn74s0YhLR8JirrJFSFqSzU=",
    ),
    (
        OTHER,
        "{SCRAM-SHA-256}4096,3w7y/BXxhqXEUUqYOfJmQw==,XBXnSxJ69lGkKQ3b5+6RkpJ0wbpe0nK1A5KX9Qqfwe4=,lpXpVIhDPCiJiit4FarutYYpDavJ+4aSwW5rF5BxSow=",
    ),
];

fn verify(hash: &str, password: &[u8]) -> bool {
    StoredPassword::parse(hash).unwrap().verify(&Password::new(password.to_vec()))
}

#[test]
fn each_scheme_takes_its_password_and_no_other() {
    for (password, hash) in HASHES {
        assert!(verify(hash, password.as_bytes()), "{hash}");
        assert!(!verify(hash, format!("{password}x").as_bytes()), "{hash}");
        assert!(!verify(hash, password.to_uppercase().as_bytes()), "{hash}");
        assert!(!verify(hash, b""), "{hash}");
    }
}

#[test]
fn bcrypt_reads_c_strings_of_72_octets() {
    // htpasswd's and Dovecot's truncation, which accounts hashed elsewhere rely on.
    let hash = |password: &[u8]| {
        let parts = bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap();
        parts.format_for_version(bcrypt::Version::TwoY)
    };
    assert!(verify(&hash(&[b'x'; 72]), &[b'x'; 100]));
    assert!(!verify(&hash(&[b'x'; 72]), &[b'x'; 71]));
    assert!(verify(&hash(b"ab"), b"ab\0cd"));
}

#[test]
fn what_is_malformed_is_refused() {
    use StoredPasswordError::{Malformed, UnknownScheme};
    let check = |text: &str, expected| {
        assert_eq!(StoredPassword::parse(text).err(), Some(expected), "{text}");
    };
    for text in ["", "plain", "{PLAIN}pw", "{SSHA", "$1$salt$VxHR7dw0zxwEM", "$2x$05$", "{}", "{CRYPT}{SSHA}"]
    {
        check(text, UnknownScheme);
    }
    check(&format!("$6${}", "x".repeat(600)), UnknownScheme);
    check(&format!("{{SSHA}}{}", "x".repeat(600)), UnknownScheme);
    for text in ["{BLF-CRYPT}", "{BLF-CRYPT}$2x$05$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsxia"] {
        check(text, Malformed("bcrypt"));
    }
    check("$2y$03$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsxia", Malformed("bcrypt"));
    check("$2y$05$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsxi", Malformed("bcrypt"));
    check("$2y$05$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsé", Malformed("bcrypt"));
    check("{SHA512-CRYPT}$5$4NuhyzyXuf4wr682$rl7y25RS/7fh", Malformed("SHA512-CRYPT"));
    check("$5$4NuhyzyXuf4wr682$rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM.", Malformed("SHA256-CRYPT"));
    check("$5$$rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM..", Malformed("SHA256-CRYPT"));
    check("$5$rounds=999$salt$rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM..", Malformed("SHA256-CRYPT"));
    check("$5$rounds=+5000$salt$rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM..", Malformed("SHA256-CRYPT"));
    // Twenty octets and no salt.
    check("{SSHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", Malformed("SSHA"));
    check("{SSHA512}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo", Malformed("SSHA512"));
    check("{PBKDF2}$1$salt$0$297d76dacd1904c8452ad9ab47dd0e75d7cd5430", Malformed("PBKDF2"));
    check("{PBKDF2}$1$salt$5000$297d76dacd1904c8452ad9ab47dd0e75d7cd54", Malformed("PBKDF2"));
    check("{PBKDF2}$2$salt$5000$297d76dacd1904c8452ad9ab47dd0e75d7cd5430", Malformed("PBKDF2"));
    check("{SCRAM-SHA-256}4096,AAAA,AAAA,AAAA", Malformed("SCRAM-SHA-256"));
    check("$argon2id$v=19$m=65536,t=3,p=1$xqcr+RdNOxJaztqxzVhjWQ", Malformed("argon2id"));
    check(
        "{ARGON2ID}$argon2i$v=19$m=64,t=3,p=1$xqcr+RdNOxJaztqxzVhjWQ$1Uu0fi7vA7MzRWoWV7ZTdolzccrusjMM4Jq0PF30/l4",
        Malformed("argon2id"),
    );
}

#[test]
fn what_would_stall_a_node_is_refused() {
    let check = |text: &str, max: u32| match StoredPassword::parse(text).err() {
        Some(StoredPasswordError::TooCostly { max: told, .. }) => assert_eq!(told, max, "{text}"),
        other => panic!("{text}: {other:?}"),
    };
    check("$2y$16$CUQY4xCGW9qcEO2LCVyqfum9M9yWlDJdC4pdHNz/mlo5OcBOqsxia", 13);
    let hash = "rl7y25RS/7fhpqjIDEvzHwyHj25cFHxQY2uZE4ajM..";
    check(&format!("$5$rounds=1000001$salt${hash}"), 1_000_000);
    check(&format!("$5$rounds=99999999999999$salt${hash}"), 1_000_000);
    check("{PBKDF2}$1$salt$1000001$297d76dacd1904c8452ad9ab47dd0e75d7cd5430", 1_000_000);
    let key = "Nv8lL3dXdSnvxRDtUIzyt4aEAx59nNKCi+v3YH/tUVI=";
    check(&format!("{{SCRAM-SHA-256}}1000001,IM3GCaHLbdPAzs3l6NJzAg==,{key},{key}"), 1_000_000);
    let tail = "xqcr+RdNOxJaztqxzVhjWQ$1Uu0fi7vA7MzRWoWV7ZTdolzccrusjMM4Jq0PF30/l4";
    check(&format!("$argon2id$v=19$m=131073,t=3,p=1${tail}"), 131_072);
    check(&format!("$argon2id$v=19$m=65536,t=5,p=1${tail}"), 4);
    check(&format!("$argon2id$v=19$m=65536,t=3,p=17${tail}"), 16);
}

#[test]
fn an_upgrade_is_needed_for_all_but_what_is_configured() {
    let config = HasherConfig { memory_kib: 65536, passes: 3, ..HasherConfig::default() };
    for (_, hash) in HASHES {
        let stored = StoredPassword::parse(hash).unwrap();
        assert_eq!(stored.needs_upgrade(&config), !hash.contains("$argon2id$"), "{hash}");
    }
    let (_, hash) = HASHES[19];
    let stored = StoredPassword::parse(hash).unwrap();
    assert!(stored.needs_upgrade(&HasherConfig { memory_kib: 19456, ..config }));
    assert!(stored.needs_upgrade(&HasherConfig { passes: 2, ..config }));
}

proptest! {
    /// Whatever a row or a client holds, it is read or refused.
    #[test]
    fn parsing_never_panics(text in any::<String>(), hash in 0..HASHES.len(), cut in any::<prop::sample::Index>()) {
        let _ = StoredPassword::parse(&text);
        for prefix in ["{SSHA}", "{SSHA512}", "{PBKDF2}$1$", "{SCRAM-SHA-256}", "{BLF-CRYPT}", "$2b$05$",
            "$5$rounds=", "$6$", "{CRYPT}$", "$argon2id$", "$argon2id$v=19$m="] {
            let _ = StoredPassword::parse(&format!("{prefix}{text}"));
        }
        // Near misses of good ones: cut off, and with something in the middle.
        let hash = HASHES[hash].1;
        let at = cut.index(hash.len());
        let _ = StoredPassword::parse(&hash[..at]);
        let _ = StoredPassword::parse(&format!("{}{text}{}", &hash[..at], &hash[at..]));
    }

    /// A parsed hash can be verified without a panic, whatever the password.
    #[test]
    fn verifying_never_panics(password in prop::collection::vec(any::<u8>(), 0..200)) {
        for hash in [HASHES[2].1, HASHES[12].1, HASHES[14].1, HASHES[16].1] {
            let _ = verify(hash, &password);
        }
    }
}
