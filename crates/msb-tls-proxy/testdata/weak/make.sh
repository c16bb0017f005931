#!/bin/sh
# Makes the certificates of this directory again, with openssl 3. Each is valid for 100 years.
set -eu
cd "$(dirname "$0")"
config=$(mktemp)
trap 'rm -f "$config" ./*.csr ./*.srl root.key weak.key sha1-root.key' EXIT
cat > "$config" <<'END'
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:api.example.test
END
new() { openssl req -config /dev/null -new -subj "/CN=$1" -key "$2" -out "$3"; }
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
sign() { openssl x509 -req -days 36500 -extfile "$config" "$@"; }
key leaf.key
new "weak test leaf" leaf.key leaf.csr
# An authority of 1024 bits below a sound root.
key root.key
new "weak test root" root.key root.csr
sign -in root.csr -extensions ca -key root.key -out root.pem
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out weak.key
new "weak test issuer" weak.key weak.csr
sign -in weak.csr -extensions ca -CA root.pem -CAkey root.key -CAcreateserial -out issuer-1024.pem
sign -in leaf.csr -extensions leaf -CA issuer-1024.pem -CAkey weak.key -CAcreateserial -out leaf-of-1024.pem
# A sound authority that signs by SHA-1.
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out sha1-root.key
new "weak test root of SHA-1" sha1-root.key sha1.csr
sign -in sha1.csr -extensions ca -key sha1-root.key -out sha1-root.pem
sign -in leaf.csr -extensions leaf -sha1 -CA sha1-root.pem -CAkey sha1-root.key -CAcreateserial -out leaf-sha1.pem
