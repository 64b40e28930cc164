#!/bin/sh
# Whether an installation works, from the outside: makes a tenant and a mailbox over the admin API, sends a message through
# the MTA, and reads and deletes it by POP3 with STLS and by POP3S. Exit 1 and what was expected where it does not.
#
# By default it asks what docker-compose.yml starts. Needs curl.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${SMOKE_ADMIN:=http://127.0.0.1:8080}"
: "${SMOKE_POP3:=127.0.0.1:110}"
: "${SMOKE_POP3S:=127.0.0.1:995}"
: "${SMOKE_SMTP:=127.0.0.1:25}"
: "${SMOKE_PROMETHEUS:=http://127.0.0.1:9090}"
: "${SMOKE_SECRETS:=$here/compose/secrets/files}"

token=$(cat "$SMOKE_SECRETS/admin-token")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
password=smoke-$$-correct-horse
address=smoke-$$@demo.test
tls="--cacert $SMOKE_SECRETS/tls.crt --connect-timeout 5 --max-time 30"

fail() {
    echo "smoke: FAILED: $*" >&2
    exit 1
}
api() { # METHOD PATH JSON: the status
    curl -sS -o "$work/answer" -w '%{http_code}' --max-time 30 -X "$1" -H "Authorization: Bearer $token" \
        -H 'Content-Type: application/json' ${3:+-d "$3"} "$SMOKE_ADMIN$2"
}
expect() { # IS WHAT WANTED…
    is=$1
    what=$2
    shift 2
    for wanted in "$@"; do
        [ "$is" = "$wanted" ] && return
    done
    fail "$what: $is: $(cat "$work/answer")"
}
pop3() { # URL CURL-OPTIONS…
    url=$1
    shift
    # shellcheck disable=SC2086
    curl -sS $tls -u "$address:$password" "$@" "$url"
}

expect "$(api POST /v1/tenants '{"name":"demo"}')" "create a tenant" 201 409
expect "$(api POST /v1/tenants/demo/domains '{"name":"demo.test"}')" "create its domain" 201 409
expect "$(api POST /v1/tenants/demo/mailboxes "{\"address\":\"$address\",\"password\":\"$password\"}")" "create a mailbox" 201

printf 'From: sender@example.org\r\nTo: %s\r\nSubject: smoke %s\r\n\r\nIt works.\r\n.with a dot\r\n' "$address" "$$" >"$work/mail"
curl -sS --max-time 30 --url "smtp://$SMOKE_SMTP" --mail-from sender@example.org --mail-rcpt "$address" -T "$work/mail" ||
    fail "the MTA does not take mail"

tries=0
until pop3 "pop3s://localhost:${SMOKE_POP3S##*:}/" 2>"$work/answer" | grep -q '^1 '; do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || fail "the message does not arrive"
    sleep 0.5
done
pop3 "pop3s://localhost:${SMOKE_POP3S##*:}/1" >"$work/by-tls"
pop3 "pop3://localhost:${SMOKE_POP3##*:}/1" --ssl-reqd >"$work/by-stls"
cmp -s "$work/by-tls" "$work/by-stls" || fail "POP3S and STLS differ"
tr -d '\r' <"$work/by-tls" | tail -n 2 >"$work/tail"
[ "$(cat "$work/tail")" = "$(printf 'It works.\n.with a dot')" ] || fail "the message was changed: $(cat "$work/by-tls")"
# No password without TLS.
if pop3 "pop3://localhost:${SMOKE_POP3##*:}/" >"$work/answer" 2>&1; then
    fail "a password is taken in the clear"
fi
pop3 "pop3s://localhost:${SMOKE_POP3S##*:}/1" -X DELE -I >"$work/answer" || fail "DELE"
if pop3 "pop3s://localhost:${SMOKE_POP3S##*:}/" | grep -q '^1 '; then
    fail "the message is still there"
fi

if [ -n "$SMOKE_PROMETHEUS" ]; then
    tries=0
    until curl -sS --max-time 10 "$SMOKE_PROMETHEUS/api/v1/query?query=sum(up)" 2>/dev/null | grep -q '"2"\]'; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || fail "Prometheus does not scrape both nodes"
        sleep 0.5
    done
    curl -sS --max-time 10 "$SMOKE_PROMETHEUS/api/v1/rules" | grep -q PosternLoginErrors || fail "Prometheus has no rules"
fi
expect "$(api DELETE "/v1/tenants/demo/mailboxes/$(printf %s "$address" | sed 's/@/%40/')")" "delete the mailbox" 200 202 204
echo "smoke: good"
