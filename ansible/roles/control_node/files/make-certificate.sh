#!/bin/sh
# Makes a certificate: make-certificate.sh DIRECTORY DAYS NAME ALTERNATIVES. The first run also makes the authority.
# An existing certificate stays, unless its names change. Prints "made" if it made something.
set -eu
umask 077
directory=$1 days=$2 name=$3 alternatives=$4
mkdir -p "$directory/hosts"
if [ ! -e "$directory/ca.crt" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj "/CN=LLM JSON scheduler" \
        -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$directory/ca.key" -out "$directory/ca.crt" 2>/dev/null
    echo made
fi
certificate=$directory/hosts/$name
if [ "$(cat "$certificate.names" 2>/dev/null)" = "$alternatives" ] &&
    openssl verify -CAfile "$directory/ca.crt" "$certificate.crt" >/dev/null 2>&1; then
    exit 0
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
    -keyout "$certificate.key" -out "$certificate.csr" 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$alternatives" >"$certificate.extensions"
openssl x509 -req -in "$certificate.csr" -CA "$directory/ca.crt" -CAkey "$directory/ca.key" -CAcreateserial \
    -days "$days" -extfile "$certificate.extensions" -out "$certificate.crt" 2>/dev/null
rm "$certificate.csr" "$certificate.extensions"
printf %s "$alternatives" >"$certificate.names"
echo made
