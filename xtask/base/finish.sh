# Does what maintainer scripts would have done, in an unpacked root: "$1". Run by mmdebstrap as its
# extract hook, on the host and without privileges, so programs of the root are started through
# the root's own loader. Everything written here must depend on the packages alone.
set -eu
umask 022
root=$1
cd "$root"

# Not lib64/ld-linux-x86-64.so.2: that links to an absolute path, which here is the host's loader.
libraries=$root/usr/lib/x86_64-linux-gnu
guest() {
    program=$1
    shift
    OPENSSL_CONF=/dev/null "$libraries/ld-linux-x86-64.so.2" --inhibit-cache \
        --library-path "$libraries" "$root/$program" "$@"
}

# base-files, base-passwd
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
sed 's/^\([^:]*\):.*/\1:*:19000:0:99999:7:::/' etc/passwd > etc/shadow
chmod 640 etc/shadow
cp usr/share/base-files/dot.bashrc root/.bashrc
cp usr/share/base-files/dot.profile root/.profile
cp usr/share/base-files/profile etc/profile
find usr/share/libc-bin usr/share/base-files -name nsswitch.conf -exec cp {} etc/nsswitch.conf \;
mkdir -p dev proc sys run tmp var/tmp mnt opt srv usr/local/bin usr/local/lib usr/local/sbin
chmod 1777 tmp var/tmp
chmod 755 var/local
rm -rf var/run var/lock
ln -s /run var/run
ln -s /run/lock var/lock
ln -sfn ../proc/self/mounts etc/mtab

# What mmdebstrap took from the building host.
printf 'sandbox\n' > etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
: > etc/resolv.conf
: > etc/fstab
: > etc/apt/sources.list
chmod 644 etc/hostname etc/hosts etc/resolv.conf etc/fstab

# Alternatives
ln -sfn mawk usr/bin/awk
ln -sfn which.debianutils usr/bin/which

# busybox fills in what no package brought. It is not to be PID 1.
for applet in $(usr/bin/busybox --list); do
    case $applet in init | linuxrc | busybox | dpkg*) continue ;; esac
    [ -e "usr/bin/$applet" ] || [ -L "usr/bin/$applet" ] ||
        [ -e "usr/sbin/$applet" ] || [ -L "usr/sbin/$applet" ] ||
        ln -s busybox "usr/bin/$applet"
done

# ca-certificates: the trust store as update-ca-certificates leaves it
find usr/share/ca-certificates -name '*.crt' -printf '%P\n' | LC_ALL=C sort > etc/ca-certificates.conf
mkdir -p etc/ssl/certs usr/local/share/ca-certificates
: > etc/ssl/certs/ca-certificates.crt
while read -r name; do
    sed -e '$a\' "usr/share/ca-certificates/$name" >> etc/ssl/certs/ca-certificates.crt
    pem=$(basename "$name" .crt | tr ' ()' '_==').pem
    ln -sfn "/usr/share/ca-certificates/$name" "etc/ssl/certs/$pem"
    # The link's target is absolute, so on the host the hash is taken from the file itself.
    hash=$(guest usr/bin/openssl x509 -noout -hash -in "usr/share/ca-certificates/$name")
    n=0
    while [ -L "etc/ssl/certs/$hash.$n" ]; do n=$((n + 1)); done
    ln -s "$pem" "etc/ssl/certs/$hash.$n"
done < etc/ca-certificates.conf

# libc-bin
usr/sbin/ldconfig -r "$root" -X

# python3: byte code, which saves a second at the first start under emulation
python=$(readlink usr/bin/python3)
PYTHONHOME="$root/usr" PYTHONDONTWRITEBYTECODE=1 guest "usr/bin/$python" -m compileall -q \
    --invalidation-mode unchecked-hash -s "$root" -p / \
    -x '/(test|idlelib|lib2to3|distutils|turtledemo)/|/sitecustomize' "usr/lib/$python"

# Nothing in the guest reads these.
rm -rf etc/cron.daily etc/init.d etc/logrotate.d etc/rc?.d etc/systemd etc/update-motd.d \
    usr/lib/systemd boot usr/share/man usr/share/info usr/share/locale usr/share/lintian \
    usr/share/bug usr/share/doc-base usr/share/bash-completion var/cache/ldconfig
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find usr/share/doc -type d -empty -delete

# All files will belong to root: a setgid bit would then grant root's group.
find . -perm /2000 -exec chmod g-s {} +
