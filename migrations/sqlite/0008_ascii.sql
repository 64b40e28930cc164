-- Messages with 8-bit headers, for those who take UTF-8 and for those who do not (RFC 6856).

-- Older binaries would take a message with an 8-bit header for damaged: its row says how long it is in ASCII.
UPDATE schema_info SET version = 8, compatible_from = 8;

-- By how many octets a message is longer than it is stored, with its Delivered-To, where its header is rewritten to
-- ASCII. `octets` is its length when it is. NULL: there is nothing to rewrite, or it came in before this was known and
-- is sent as it is.
ALTER TABLE messages ADD COLUMN ascii_extra INTEGER;
ALTER TABLE deleted_messages ADD COLUMN ascii_extra INTEGER;
