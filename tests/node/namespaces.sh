# The node's own view of the machine, as process 1 of namespaces of its own: bash namespaces.sh FOLDER
# containerd and the kubelet are started in it; when it dies, every container dies with it.
set -eu
folder=$1

# -n: mount notes down what it does in /run, which still is the machine's.
# Hard-coded places of the kubelet (/var/lib/kubelet/device-plugins, /var/log/containers, /run/netns) become the folder's.
for place in var/lib var/log run; do
  mkdir -p "$folder/$place"
  mount -n --bind "$folder/$place" "/$place"
done

# A kubelet writes global sysctls at its start, which would change the whole machine: it finds them set as it wants them,
# and everything but its network namespace's own is read-only.
mount -n --bind /proc/sys /proc/sys
mount -n -o remount,bind,ro /proc/sys
mount -n --bind /proc/sys/net /proc/sys/net
mount -n -o remount,bind,rw /proc/sys/net
while read -r name value; do
  echo "$value" > "$folder/sysctl-$(basename "$name")"
  mount -n --bind "$folder/sysctl-$(basename "$name")" "/proc/sys/$name"
  mount -n -o remount,bind,ro "/proc/sys/$name"
done <<'SYSCTLS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS

mount -n --make-rshared /
touch "$folder/ready"
trap 'exit 0' TERM
while :; do
  sleep 3600 &
  wait $!
done
