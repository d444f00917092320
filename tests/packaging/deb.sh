# Builds the Debian package and reads it; with COX_TEST_FULL=yes installs it in a bare Debian root that debootstrap
# downloads, minutes long, and lets it answer there. COX_TEST_DEB_ROOT=FOLDER takes that root instead (as root; it is
# left with the package and what it depends on installed).
# shellcheck source=tests/packaging/lib.sh
source tests/packaging/lib.sh
for tool in dpkg-deb dpkg-shlibdeps file; do
    command -v $tool > /dev/null || { echo "skip: no $tool (scripts/install-packages test)"; exit 77; }
done

quiet cpack --config "$build/CPackConfig.cmake" -G DEB -B "$work/cpack"
deb=$(echo "$work"/cpack/*.deb)
[ -f "$deb" ] || fail "not one package but: $deb"

# --- what it says ---
field() { dpkg-deb --field "$deb" "$1"; }
same "package" coxswain "$(field Package)"
same "section" science "$(field Section)"
same "architecture" "$(dpkg --print-architecture)" "$(field Architecture)"
[[ "$(field Maintainer)" =~ ^[^\<]+\ \<[^@\ ]+@[^\ ]+\>$ ]] || fail "maintainer: $(field Maintainer)"
depends=$(field Depends)
for package in openmpi-bin libopenmpi3 libopenblas0 libprotobuf-c1 libpcre2-8-0 libutf8proc2 libjansson4 libhwloc15 libmd0 libc6; do
    [[ ", $depends," =~ ,\ $package(,|\ \(|\ \|) ]] || fail "$package is not among what it depends on: $depends"
done
[[ "$(field Recommends)" = *python3-jinja2* ]] || fail "recommends: $(field Recommends)"
if field Description | grep -E '.{81}'; then fail "the description has lines over 80 columns"; fi

# --- what is in it: only below /usr, of root, for all to read ---
dpkg-deb --contents "$deb" > "$work/contents"
for path in bin/coxswain lib/libcoxswain.a lib/pkgconfig/coxswain.pc include/coxswain/run/run.h \
    include/coxswain/proto/request.pb-c.h share/coxswain/slurm/batch.sbatch share/coxswain/models/olmoe-velk/model.safetensors \
    share/doc/coxswain/{copyright,README.md,examples/answer_steered.c}; do
    grep -q " \./usr/$path$" "$work/contents" || fail "/usr/$path is not in it"
done
if grep -vE '^[d-]rw[x-]r-[x-]r-[x-] root/root .* \./usr/' "$work/contents"; then fail "these lines of its contents"; fi

# --- in a bare root ---
root=${COX_TEST_DEB_ROOT-}
if [ -z "$root" ] && [ "${COX_TEST_FULL-}" != yes ]; then
    echo "skip: not installed in a bare Debian root, which takes minutes to download (COX_TEST_FULL=yes, or COX_TEST_DEB_ROOT)"
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "skip: not installed in a bare Debian root: only root can chroot"; exit 0; }

# The host's release from where the host gets it.
download() {
    local release source
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    source=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -n "s/ $release\$//p" | head -n 1)
    root=$work/root
    debootstrap --variant=minbase "$release" "$root" "$source" > "$work/log" 2>&1
}
if [ -z "$root" ]; then
    command -v debootstrap > /dev/null ||
        { echo "skip: not installed in a bare Debian root: no debootstrap (scripts/install-packages test)"; exit 0; }
    download || { echo "skip: not installed in a bare Debian root: debootstrap: $(tail -n 1 "$work/log")"; exit 0; }
fi

release_root() {
    umount "$root/dev/shm" "$root/sys" "$root/proc" 2> /dev/null || true
    rm -f "$root/coxswain.deb"
    rm -rf --one-file-system "$work"
}
trap release_root EXIT
cp -r /etc/apt/apt.conf.d "$root/etc/apt/" # proxies
cp "$deb" "$root/coxswain.deb"
mount -t proc proc "$root/proc" || fail "cannot mount /proc in $root"
mount -t sysfs -o ro sysfs "$root/sys" || fail "cannot mount /sys in $root"
mount -t tmpfs tmpfs "$root/dev/shm" || fail "cannot mount /dev/shm in $root" # messages between ranks
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
quiet inside apt-get update
quiet inside apt-get install --yes --no-install-recommends --reinstall /coxswain.deb
same "its answer in a bare root" "An empty hat is a piece of clothing with nothing inside." \
    "$(inside coxswain generate --model /usr/share/coxswain/models/olmoe-velk --ranks 2 --prompt "What is an empty hat?")"
echo "the package installs and answers in a bare Debian root"
