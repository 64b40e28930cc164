//! UTF8 and LANG (RFC 6856).

use crate::driver::{Connection, check, open_policy, strict_policy};

#[test]
fn languages_are_listed_and_changed_in_both_states() {
    check(
        Connection::new(open_policy()),
        "S: +OK POP3 server ready
        C: LANG
        S: +OK languages follow
        S: en English
        S: de Deutsch
        S: i-default Default language
        S: .
        C: LANG uga
        S: -ERR no such language here
        C: LANG de-CH
        S: +OK de Texte sind ab jetzt deutsch
        C: LANG uga
        S: -ERR diese Sprache gibt es hier nicht
        C: USER mrose
        S: +OK PASS wird erwartet
        C: PASS wrong
        S: -ERR [AUTH] Name oder Passwort ist falsch
        C: USER mrose
        S: +OK PASS wird erwartet
        C: PASS secret
        S: +OK Postfach ist geoeffnet
        C: STAT
        S: +OK 2 320
        C: LIST
        S: +OK 2 Nachrichten (320 Oktette)
        S: 1 120
        S: 2 200
        S: .
        C: DELE 1
        S: +OK Nachricht ist geloescht
        C: RSET
        S: +OK im Postfach sind 2 Nachrichten (320 Oktette)
        C: LANG en
        S: +OK en texts are in English from now on
        C: LANG de en
        S: -ERR one language at most
        C: LANG *
        S: +OK i-default texts are in English from now on
        C: QUIT
        S: +OK bye
        ",
    );
}

#[test]
fn utf8_is_for_texts_too_and_comes_before_the_login() {
    check(
        Connection::new(open_policy()),
        "S: +OK POP3 server ready
        C: LANG de
        S: +OK de Texte sind ab jetzt deutsch
        C: UTF8 now
        S: -ERR dieser Befehl hat kein Argument
        C: UTF8
        S: +OK ab jetzt UTF-8
        C: UTF8
        S: -ERR der UTF-8-Modus ist schon eingeschaltet
        C: USER mrose
        S: +OK PASS wird erwartet
        C: PASS secret
        S: +OK Postfach ist geöffnet
        C: UTF8
        S: -ERR die Anmeldung ist schon geschehen
        C: QUIT
        S: +OK auf Wiedersehen
        ",
    );
}

/// RFC 6856 §2.1: STLS is not for whoever is in UTF-8 mode. RFC 2595 §4: what was learnt before it is forgotten.
#[test]
fn tls_comes_before_utf8() {
    check(
        Connection::new(strict_policy()),
        "S: +OK POP3 server ready
        C: LANG de
        S: +OK de Texte sind ab jetzt deutsch
        C: STLS
        S: +OK TLS kann beginnen
        C: UTF8
        S: +OK UTF-8 from now on
        C: STLS
        S: -ERR TLS is active already
        C: QUIT
        S: +OK bye
        ",
    );
    check(
        Connection::new(strict_policy()),
        "S: +OK POP3 server ready
        C: UTF8
        S: +OK UTF-8 from now on
        C: STLS
        S: -ERR STLS comes before UTF8
        C: QUIT
        S: +OK bye
        ",
    );
}
