//! All that the server says to people, in every language it speaks: one catalogue.
//!
//! A text is one line of at most 440 octets. Response codes (RFC 2449 §8) and numbers are the replies', and
//! the same in every language.

use crate::language::Language;

/// RFC 2449 §4: a reply's first line has 512 octets at most, CRLF included.
pub(crate) const MAX_TEXT_OCTETS: usize = 440;

/// A text in every language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    en: &'static str,
    de: &'static str,
}

impl Text {
    /// The text in this language, in UTF-8.
    pub fn in_language(self, language: Language) -> &'static str {
        match language {
            Language::Default | Language::English => self.en,
            Language::German => self.de,
        }
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $en:literal, $de:literal;)*) => {
        $($(#[$doc])* pub const $name: Text = Text { en: $en, de: $de };)*

        #[cfg(test)]
        pub(crate) const ALL: &[Text] = &[$($name,)*];
    };
}

texts! {
    /// After QUIT in AUTHORIZATION, and after UPDATE.
    BYE: "bye", "auf Wiedersehen";
    /// After USER.
    SEND_PASS: "send PASS", "PASS wird erwartet";
    /// After STLS.
    BEGIN_TLS: "begin TLS", "TLS kann beginnen";
    /// After UTF8.
    UTF8_ON: "UTF-8 from now on", "ab jetzt UTF-8";
    /// After UTF8 in UTF-8 mode.
    UTF8_ALREADY: "UTF-8 mode is on already", "der UTF-8-Modus ist schon eingeschaltet";
    /// Before the languages.
    LANGUAGES_FOLLOW: "languages follow", "es folgen die Sprachen";
    /// After LANG, in the new language.
    LANGUAGE_CHANGED: "texts are in English from now on", "Texte sind ab jetzt deutsch";
    /// LANG of a language there is not, in the old one.
    NO_SUCH_LANGUAGE: "no such language here", "diese Sprache gibt es hier nicht";
    /// Before the capabilities.
    CAPABILITIES_FOLLOW: "capability list follows", "es folgen die Fähigkeiten";
    /// Before the mechanisms of AUTH.
    MECHANISMS_FOLLOW: "mechanisms follow", "es folgen die Verfahren";
    /// After XCLIENT and XOIP.
    NOTED: "noted", "notiert";
    /// After the login.
    READY: "maildrop locked and ready", "Postfach ist geöffnet";
    /// After NOOP.
    NOTHING_DONE: "nothing done", "nichts getan";
    /// After DELE.
    MESSAGE_DELETED: "message deleted", "Nachricht ist gelöscht";
    /// Before the unique-ids.
    UNIQUE_IDS_FOLLOW: "unique-ids follow", "es folgen die Kennungen";
    /// Before what TOP asks for.
    TOP_FOLLOWS: "top of message follows", "es folgt der Anfang der Nachricht";
    /// Between a number and a number of octets, as in `2 messages (320 octets)`.
    MESSAGES: "messages", "Nachrichten";
    /// Behind a number of octets.
    OCTETS: "octets", "Oktette";
    /// Before the number of messages, after RSET.
    MAILDROP_HAS: "maildrop has", "im Postfach sind";

    /// The number names no message.
    NO_SUCH_MESSAGE: "no such message", "diese Nachricht gibt es nicht";
    /// A message's content cannot be had for now.
    MESSAGE_UNAVAILABLE: "message cannot be read now", "die Nachricht kann gerade nicht gelesen werden";
    /// A message's content is gone or not what it was.
    MESSAGE_DAMAGED: "message is damaged", "die Nachricht ist beschädigt";
    /// The listing cannot be had for now.
    LISTING_UNAVAILABLE: "maildrop cannot be listed now", "das Postfach kann gerade nicht gelesen werden";
    /// A daily limit of policy.
    DAILY_LIMIT: "today's limit of transfer is reached", "das Datenvolumen für heute ist aufgebraucht";
    /// UPDATE failed.
    NOT_COMMITTED: "deletions could not be committed, please try again later",
        "die Löschungen konnten nicht ausgeführt werden, bitte später noch einmal versuchen";
    /// DELE with an app password that may read.
    READ_ONLY: "this login may read and not delete", "dieser Zugang darf lesen und nicht löschen";
    /// The node goes away.
    SHUTTING_DOWN: "shutting down, please connect again", "Neustart, bitte noch einmal verbinden";
    /// An administrator ended the session.
    SESSION_ENDED: "the session was ended by an administrator, nothing was deleted",
        "die Sitzung wurde von der Verwaltung beendet, nichts wurde gelöscht";
    /// A newer login took the maildrop over.
    TAKEN_OVER: "a newer login took the maildrop over while this session was silent, nothing was deleted",
        "eine neuere Anmeldung hat das Postfach übernommen, während diese Sitzung still war, nichts wurde gelöscht";
    /// The autologout timer ran out.
    TOO_LONG_A_SILENCE: "closing after too long a silence, nothing was deleted",
        "Ende nach zu langer Stille, nichts wurde gelöscht";
    /// No room for another connection.
    TOO_MANY_CONNECTIONS: "too many connections, please try later",
        "zu viele Verbindungen, bitte später versuchen";

    /// A wrong name or password; never which.
    BAD_CREDENTIALS: "wrong login name or password", "Name oder Passwort ist falsch";
    /// The exclusive-access lock is another's.
    IN_USE: "the maildrop is open in another session", "das Postfach ist in einer anderen Sitzung geöffnet";
    /// Something of ours failed.
    LOGIN_UNAVAILABLE: "login is not possible right now, please try later",
        "die Anmeldung ist gerade nicht möglich, bitte später versuchen";
    /// Suspended, or not allowed by policy.
    LOGIN_DISABLED: "login is disabled, please ask your administrator",
        "der Zugang ist gesperrt, bitte an die Verwaltung wenden";
    /// A mailbox that wants TLS.
    TLS_ONLY: "this mailbox is open over TLS only", "dieses Postfach ist nur über TLS zugänglich";
    /// LOGIN-DELAY.
    TOO_SOON: "too soon after the last login, please try later",
        "zu bald nach der letzten Anmeldung, bitte später versuchen";

    /// A command of TRANSACTION before the login.
    LOG_IN_FIRST: "log in first", "erst anmelden";
    /// A command of AUTHORIZATION after the login.
    LOGGED_IN_ALREADY: "you are logged in already", "die Anmeldung ist schon geschehen";
    /// A password without TLS.
    TLS_REQUIRED: "TLS is required before login", "die Anmeldung verlangt TLS";
    /// PASS without USER.
    SEND_USER_FIRST: "send USER first", "erst USER senden";
    /// APOP without a timestamp.
    NO_APOP: "APOP is not offered here", "APOP gibt es hier nicht";
    /// AUTH of a mechanism that is not offered.
    NO_SUCH_MECHANISM: "no such mechanism", "dieses Verfahren gibt es nicht";
    /// AUTH where no mechanism is.
    NO_AUTH: "AUTH is not offered here", "AUTH gibt es hier nicht";
    /// A token that is not base64.
    NOT_BASE64: "that is not base64", "das ist nicht base64";
    /// A token beyond the bound.
    TOKEN_TOO_LONG: "the token is too long", "das ist zu lang";
    /// `*` in an exchange.
    CANCELLED: "authentication was cancelled", "die Anmeldung wurde abgebrochen";
    /// STLS over TLS.
    TLS_ACTIVE: "TLS is active already", "TLS besteht schon";
    /// STLS without a certificate.
    NO_TLS: "TLS is not available", "TLS gibt es hier nicht";
    /// STLS in UTF-8 mode.
    TLS_BEFORE_UTF8: "STLS comes before UTF8", "STLS kommt vor UTF8";
    /// XCLIENT of somebody.
    NOT_TRUSTED: "this is taken from trusted proxies only", "das wird nur vertrauten Proxys geglaubt";
    /// XCLIENT that makes no sense.
    NO_CLIENT: "that cannot be said of a client", "das lässt sich von niemandem sagen";

    /// A keyword there is not.
    UNKNOWN_COMMAND: "unknown command", "unbekannter Befehl";
    /// A line beyond the bound.
    LINE_TOO_LONG: "the line is too long", "die Zeile ist zu lang";
    /// An argument too many.
    NO_ARGUMENT: "this command takes no argument", "dieser Befehl hat kein Argument";
    /// A number that is none.
    BAD_NUMBER: "that is not a message number", "das ist keine Nachrichtennummer";
    /// Two numbers.
    ONE_NUMBER_AT_MOST: "one message number at most", "höchstens eine Nachrichtennummer";
    /// No number.
    NUMBER_NEEDED: "a message number is needed", "es fehlt eine Nachrichtennummer";
    /// TOP without two numbers.
    TOP_USAGE: "a message number and a number of lines are needed",
        "es braucht eine Nachrichtennummer und eine Zeilenzahl";
    /// AUTH with more than two arguments.
    AUTH_USAGE: "a mechanism and one initial response at most",
        "höchstens ein Verfahren und eine erste Antwort";
    /// APOP without name and digest.
    APOP_USAGE: "a login name and a digest of 32 hexadecimal digits are needed",
        "es braucht einen Namen und 32 hexadezimale Ziffern";
    /// LANG with more than one argument.
    LANG_USAGE: "one language at most", "höchstens eine Sprache";
    /// A name that is not UTF-8.
    NAME_NOT_UTF8: "the name is not UTF-8", "der Name ist nicht in UTF-8";
    /// A name that can be nobody's.
    NO_LOGIN_NAME: "that is not a login name", "das ist kein Name";
    /// PASS without a password.
    PASSWORD_NEEDED: "a password is needed", "es fehlt das Passwort";
    /// The limit of bad commands, in AUTHORIZATION.
    TOO_MANY_BAD_COMMANDS: "too many bad commands", "zu viele falsche Befehle";
    /// The limit of bad commands, in TRANSACTION.
    TOO_MANY_BAD_COMMANDS_KEPT: "too many bad commands, nothing was deleted",
        "zu viele falsche Befehle, nichts wurde gelöscht";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Wording;

    #[test]
    fn every_text_is_one_short_line_in_every_language() {
        for text in ALL {
            for &language in Language::ALL {
                let words = text.in_language(language);
                assert!(!words.is_empty() && words.len() <= MAX_TEXT_OCTETS, "{words}");
                // What looks like a response code or a timestamp would be taken for one.
                assert!(!words.chars().any(|c| c.is_control() || "[]<>".contains(c)), "{words}");
            }
            assert!(text.in_language(Language::Default).is_ascii(), "{text:?}");
        }
    }

    #[test]
    fn without_utf8_every_text_is_ascii() {
        for text in ALL {
            for &language in Language::ALL {
                let mut out = Vec::new();
                Wording { language, utf8: false }.write(*text, &mut out);
                assert!(out.is_ascii() && !out.contains(&b'?'), "{text:?}");
            }
        }
    }
}
