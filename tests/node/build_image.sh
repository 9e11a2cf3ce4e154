# deploy/Dockerfile built without a registry and without a daemon: bash build_image.sh REPOSITORY PROGRAMS BASE WORK TARGET
# PROGRAMS: Debian's packages unpacked. BASE: tar of the base image's files, made where it is missing. WORK: an empty folder.
# To be called in mount and process namespaces of its own, of which nothing is left.
set -eu
repository=$1 programs=$2 base=$3 work=$4 target=$5

# buildah starts itself anew without the caller's environment, so that its libraries have to be where they belong;
# mount would note down in /run what is done here.
libraries=/usr/lib/x86_64-linux-gnu
mount -n -t overlay overlay -o "lowerdir=$programs$libraries:$libraries" "$libraries"
mount -n -t tmpfs tmpfs /run
mount -n -t tmpfs tmpfs /var/lib/containers 2>/dev/null || true

if [ ! -e "$base" ]; then
  DEBOOTSTRAP_DIR="$programs/usr/share/debootstrap" sh "$programs/usr/sbin/debootstrap" --variant=minbase \
    --include=python3,python3-venv,python-is-python3,ca-certificates trixie "$work/base"
  tar -C "$work/base" --exclude='./var/cache/apt/archives/*' --exclude='./var/lib/apt/lists/*' -cf "$base.unfinished" .
  mv "$base.unfinished" "$base"
  rm -rf "$work/base"
fi

echo '{"default": [{"type": "insecureAcceptAnything"}]}' > "$work/policy.json"
: > "$work/registries.conf"
export CONTAINERS_REGISTRIES_CONF="$work/registries.conf" TMPDIR="$work"
buildah() {
  "$programs/usr/bin/buildah" --root "$work/storage" --runroot "$work/runroot" --storage-driver overlay "$@"
}
container=$(buildah from scratch)
buildah add --quiet "$container" "$base" /
buildah commit --quiet --signature-policy "$work/policy.json" "$container" localhost/python-base:trixie
buildah rm "$container"

# pip trusts whom this machine trusts: a mirror's certificate may be signed by an authority of its own.
trust=()
for folder in /etc/ssl/certs /usr/share/ca-certificates /usr/local/share/ca-certificates; do
  if [ -d "$folder" ]; then trust+=(--volume "$folder:$folder:ro"); fi
done
buildah build --signature-policy "$work/policy.json" --isolation chroot --network host --pull-never "${trust[@]}" \
  --build-arg PYTHON=localhost/python-base:trixie --file "$repository/deploy/Dockerfile" \
  --tag localhost/kpo-healer:lab "$repository"
buildah push --quiet --signature-policy "$work/policy.json" localhost/kpo-healer:lab \
  "oci-archive:$work/image.tar:localhost/kpo-healer:lab"
mv "$work/image.tar" "$target"
