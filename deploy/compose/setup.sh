#!/bin/sh
# Makes what is secret, once, in DIR (deploy/compose/secrets/files). What is there is left alone.
# usage: setup.sh [DIR]
set -eu
cd "$(dirname "$0")"
dir=${1:-secrets/files}
umask 077
mkdir -p "$dir"
cd "$dir"

make_once() { # FILE COMMAND…
    [ -s "$1" ] && return
    file=$1
    shift
    "$@" >"$file.new"
    mv "$file.new" "$file"
}
make_once master-key openssl rand -base64 32
make_once admin-token openssl rand -hex 32
make_once postgres-password openssl rand -hex 24
make_once grafana-password openssl rand -hex 12
make_once s3-secret openssl rand -hex 24
make_once index-url printf 'postgres://postern:%s@postgres:5432/postern\n' "$(cat postgres-password)"
make_once s3.env printf 'AWS_ACCESS_KEY_ID=postern\nAWS_SECRET_ACCESS_KEY=%s\n' "$(cat s3-secret)"
make_once s3.json printf \
    '{"identities":[{"name":"postern","credentials":[{"accessKey":"postern","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}\n' \
    "$(cat s3-secret)"
if [ ! -s tls.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=localhost \
        -addext 'subjectAltName=DNS:localhost,DNS:pop.demo.test,IP:127.0.0.1' \
        -addext basicConstraints=critical,CA:FALSE -keyout tls.key -out tls.crt 2>openssl.log
fi
[ -s haproxy.pem ] || cat tls.crt tls.key >haproxy.pem
# The containers' users are not yours, and have to read this. Nobody else gets through the directory above it.
chmod 0755 .
chmod 0644 ./*
echo "secrets are in $(pwd): keep a copy of master-key elsewhere"
