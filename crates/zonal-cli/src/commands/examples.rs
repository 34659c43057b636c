//! What each command's help shows at its end. A test runs all of it, line by line, in a folder with
//! the drive `disk.qcow2`, some files, an index and a dump, so that what people copy works.

pub(crate) const CREATE: &str = "\
EXAMPLES:
  zonal create new.qcow2 --size 8G
  zonal create zns.qcow2 --size 8G --zone-size 64M --zone-capacity 48M
  zonal create smr.qcow2 --size 8G --conventional-zones 4 --max-open-zones 9
  zonal create new2.qcow2 --size 8G --preallocate falloc";

pub(crate) const ADOPT: &str = "\
EXAMPLES:
  qemu-img create -qf qcow2 b.qcow2 1G && zonal adopt b.qcow2 --zone-size 64M
  qemu-img create -qf qcow2 c.qcow2 1G && zonal adopt c.qcow2 --max-open-zones 2";

pub(crate) const INFO: &str = "\
EXAMPLES:
  zonal info disk.qcow2
  zonal info mem:size=8G,zone-size=64M --json
  zonal info disk.qcow2,faults=fail-write=7,latency=1ms..5ms";

pub(crate) const REPORT: &str = "\
EXAMPLES:
  zonal report disk.qcow2
  zonal report disk.qcow2 --zones 2..8 --state full
  zonal report disk.qcow2 --json";

pub(crate) const MAP: &str = "\
EXAMPLES:
  zonal map disk.qcow2
  zonal map disk.qcow2 --zones ..8
  zonal map disk.qcow2 --svg disk.svg";

pub(crate) const APPEND: &str = "\
EXAMPLES:
  zonal append disk.qcow2 a.log b.log --record 64K --json > new.jsonl
  cat a.log | zonal append disk.qcow2 --ordered --zones 3..5 --csv > a.csv
  zonal append disk.qcow2,faults=latency=1ms..2ms a.log b.log --json
  zonal append disk.qcow2 a.log b.log --json --resume index.jsonl >>index.jsonl";

pub(crate) const CAT: &str = "\
EXAMPLES:
  zonal cat disk.qcow2 --index index.jsonl > all
  zonal cat disk.qcow2 --index index.jsonl --file b.log | cmp - b.log";

pub(crate) const READ: &str = "\
EXAMPLES:
  zonal read disk.qcow2 --offset 64M --length 1M > piece
  zonal read disk.qcow2 --offset 0x1000 --length 100 | od -c | head";

pub(crate) const WRITE: &str = "\
EXAMPLES:
  zonal write disk.qcow2 a.log --offset 192M
  zonal write disk.qcow2 --offset 256M < b.log";

pub(crate) const MOUNT: &str = "\
EXAMPLES:
  mkdir d && zonal mount disk.qcow2 d --daemon && ls -l d/seq && umount d
  zonal mount disk.qcow2 d --buffered --daemon && cp a.log d/seq/9; umount d";

#[cfg(feature = "ublk")]
pub(crate) const SERVE: &str = "\
EXAMPLES:
  zonal serve ublk disk.qcow2 --daemon && blkzone report /dev/ublkb0
  zonal serve ublk disk.qcow2 --recover 0 --daemon";

pub(crate) const OPEN: &str = "\
EXAMPLES:
  zonal open disk.qcow2 --zone 3
  zonal open disk.qcow2 --zones 3..=5";

pub(crate) const CLOSE: &str = "\
EXAMPLES:
  zonal close disk.qcow2 --all";

pub(crate) const FINISH: &str = "\
EXAMPLES:
  zonal finish disk.qcow2 --zone 0 --yes
  zonal finish disk.qcow2 --zones 1..3 --yes";

pub(crate) const RESET: &str = "\
EXAMPLES:
  zonal reset disk.qcow2 --zone 0 --yes
  zonal reset disk.qcow2 --all --yes";

pub(crate) const FLUSH: &str = "\
EXAMPLES:
  zonal flush disk.qcow2";

pub(crate) const CHECK: &str = "\
EXAMPLES:
  zonal check disk.qcow2
  zonal check disk.qcow2 --deep --json
  zonal check disk.qcow2 --repair";

pub(crate) const CONFORM: &str = "\
EXAMPLES:
  zonal conform mem:size=64M,zone-size=4M,max-open-zones=3 --yes
  zonal conform disk.qcow2 --zones 12.. --yes --junit conform.xml
  zonal conform mem:size=32M,zone-size=4M --yes --seed 7 --json";

pub(crate) const DUMP: &str = "\
EXAMPLES:
  zonal dump disk.qcow2 -o new.dump
  zonal dump disk.qcow2 | gzip > new.dump.gz";

pub(crate) const RESTORE: &str = "\
EXAMPLES:
  zonal create c --size 1G --zone-size 64M && zonal restore c disk.dump
  gzip -c disk.dump | gunzip | zonal restore disk.qcow2 --force --yes";

pub(crate) const BENCH: &str = "\
EXAMPLES:
  zonal bench --runtime 1s
  zonal bench mem:size=1G,zone-size=64M --bs 512K --runtime 1s --verify
  zonal bench --rw mixed --rwmixread 70 --runtime 1s --plot latency.svg
  zonal bench mem:size=1G,zone-size=64M,faults=latency=100us..2ms --runtime 1s
  zonal bench disk.qcow2 --rw randread --size 1M --rate-iops 5000 --json";

pub(crate) const ATOMIC: &str = "\
EXAMPLES:
  zonal atomic info disk.qcow2
  zonal atomic info a.log --journal --json
  head -c 16K a.log | zonal atomic write b.log --offset 0 --journal
  zonal atomic bench new.db --journal --size 4M --runtime 1s
  zonal atomic bench b.log --journal --size 1M --runtime 1s --yes --json";

pub(crate) const SIM: &str = "\
EXAMPLES:
  zonal sim --runs 200
  zonal sim --seed 4711 --runs 1 --trace
  zonal sim --runs 100 --faults cut,kill,sync --json";

pub(crate) const COMPLETIONS: &str = "\
EXAMPLES:
  zonal completions bash > zonal.bash && . ./zonal.bash
  zonal completions zsh > _zonal";

pub(crate) const MAN: &str = "\
EXAMPLES:
  zonal man man1 && ls man1/zonal-append.1";

#[cfg(feature = "top")]
pub(crate) const TOP: &str = "\
EXAMPLES:
  zonal top disk.qcow2 --interval 500ms";
