#!/bin/sh
# A throw-away CA. web3 has a certificate that names another host.
set -e
mkdir -p /etc/lab /etc/webstack/pki /etc/haproxy/certs /run/lab /run/app
cd /etc/lab
key() { openssl ecparam -name prime256v1 -genkey -noout; }
sign() { # file, common name
  key > "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -days 3 -extfile san-"$2" -out "$1.crt" 2>/dev/null
  cat "$1.crt" "$1.key" > "$1.pem"
}
key > ca.key
openssl req -x509 -new -key ca.key -days 3 -subj "/CN=Lab CA" -out ca.crt
for name in web1 web2 other db1 db2 db3 www.example.com "$(hostname)"; do echo "subjectAltName=DNS:$name" > san-"$name"; done
for name in web1 web2 db1 db2 db3; do sign "$name" "$name"; done
sign web3 other
sign site www.example.com
sign host "$(hostname)"
cp ca.crt /etc/webstack/pki/ca.crt
cp host.pem /etc/webstack/pki/host.pem
cp site.pem /etc/haproxy/certs/www.example.com.pem
echo primary > /run/lab/db1.role
echo replica | tee /run/lab/db2.role > /run/lab/db3.role
touch /etc/lab/done
