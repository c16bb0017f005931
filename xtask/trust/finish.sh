# Puts into an installed Debian, "$1", what its packages do not bring: packages of PyPI and npm, and clients in Go and
# Java. Run by mmdebstrap as a hook, on the host, whose own pip, npm and apt fetch; "$2" is the directory of the sources.
set -eu
root=$1
sources=$2

python3 -m pip install --quiet --no-cache-dir --no-compile --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    --target "$root/usr/local/lib/python3.11/dist-packages" --requirement "$sources/requirements.txt"
npm install --silent --no-save --no-audit --no-fund --prefix "$root/opt/npm" npm@10.9.2

# The compilers are used and removed again: they are larger than all the rest.
apt() { APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --quiet --yes -oDPkg::Chroot-Directory="$root" "$@" > /dev/null; }
cp "$sources/client.go" "$sources/Client.java" "$root/tmp/"
apt install --no-install-recommends golang-go default-jdk-headless
chroot "$root" env HOME=/tmp GOCACHE=/tmp/go CGO_ENABLED=0 \
    go build -trimpath -o /usr/local/bin/go-client /tmp/client.go
chroot "$root" javac -d /opt/java-client /tmp/Client.java
apt purge --autoremove golang-go default-jdk-headless openjdk-17-jdk-headless

apt install --no-install-recommends liblwp-protocol-https-perl

# cargo as rustup brings it, which is what most have.
cp "$(rustc --print sysroot)/bin/cargo" "$root/usr/local/bin/"
rm -rf "$root"/tmp/* "$root"/usr/share/doc/* "$root"/usr/share/man "$root"/usr/share/locale
