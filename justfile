# For those who like `just`; every recipe is plain cargo.

# Builds with other flags keep to themselves, so that they do not rebuild the ordinary one.
controls_dir := "target/controls"
shuttle_dir := "target/shuttle"
shuttle_controls_dir := "target/shuttle-controls"
asan_dir := "target/asan"
# rustix's own way to the clock reads a vDSO that is not there under valgrind.
valgrind_env := "RUSTFLAGS='--cfg rustix_use_libc' CARGO_TARGET_DIR=target/valgrind"
definite := "--show-leak-kinds=definite --errors-for-leak-kinds=definite"
memcheck := "valgrind --quiet --error-exitcode=9 --leak-check=full --fair-sched=yes " + definite

# Everything a change has to pass before it is committed.
pre: && doc test
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check bans licenses sources

# All tests that need no special build.
test *args:
    cargo test --workspace {{ args }}

# Every order, every failure, every cut in a small world; ZONAL_LONG=1 for a larger one.
small-scope:
    cargo test -p zonal --test small_scope -- --nocapture

# Random histories with cuts, kills and failures: `just sim --seed 4711 --runs 1`.
sim *args="--runs 20000":
    cargo run --release --quiet -- sim {{ args }}

# Threads under a scheduler that chooses who goes on.
shuttle:
    RUSTFLAGS='--cfg zonal_shuttle' CARGO_TARGET_DIR={{ shuttle_dir }} \
        cargo test -p zonal --test shuttle -- --nocapture
    RUSTFLAGS='--cfg zonal_shuttle' CARGO_TARGET_DIR={{ shuttle_dir }} \
        cargo test -p zonal --lib in_any_order

# Breaks each rule in turn; fails if no test notices.
controls:
    RUSTFLAGS='--cfg zonal_break' CARGO_TARGET_DIR={{ controls_dir }} \
        cargo test -p zonal --test negative_controls -- --nocapture
    RUSTFLAGS='--cfg zonal_break' CARGO_TARGET_DIR={{ controls_dir }} \
        cargo test -p zonal --lib atomic:: -- --nocapture
    RUSTFLAGS='--cfg zonal_break' CARGO_TARGET_DIR={{ controls_dir }} \
        cargo test -p zonal-cli --test sim_controls -- --nocapture
    RUSTFLAGS='--cfg zonal_break --cfg zonal_shuttle' CARGO_TARGET_DIR={{ shuttle_controls_dir }} \
        cargo test -p zonal --test shuttle_controls -- --nocapture

# Power cuts, full and failing disks, on file systems of their own. As root; ZONAL_CUTS=300 for more cuts.
disks:
    cargo test -p zonal --test power --test full --test failing --test untorn -- --nocapture
    cargo test -p zonal-sqlite -- --nocapture

# Hostile images, journals and answers of devices, a minute for each target; `just fuzz 3600` for an hour. Wants cargo-fuzz.
fuzz seconds="60":
    cargo fuzz run --sanitizer none image_open -- -max_total_time={{ seconds }} -len_control=0 -max_len=1024
    cargo fuzz run --sanitizer none check_repair -- -max_total_time={{ seconds }} -len_control=0 -max_len=1024
    cargo fuzz run --sanitizer none device_answers -- -max_total_time={{ seconds }} -len_control=0 -max_len=1024
    cargo fuzz run --sanitizer none journal_open -- -max_total_time={{ seconds }} -len_control=0 -max_len=1024

# Changes zonal-core in some 1800 places, one at a time, and lists what its unit tests do not notice. Wants cargo-mutants.
mutants *args:
    CARGO_PROFILE_TEST_DEBUG=0 RUST_BACKTRACE=0 PROPTEST_CASES=16 PROPTEST_MAX_SHRINK_ITERS=0 \
    PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 \
        cargo mutants -p zonal-core --jobs 2 --timeout 60 --no-shuffle -o target {{ args }}

# The unsafe parts under AddressSanitizer, leaks included.
asan:
    RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address' CARGO_TARGET_DIR={{ asan_dir }} \
        cargo test -p zonal --target x86_64-unknown-linux-gnu --lib \
        --test basics --test handles --test hot_path --test no_ring --test file --test conformance

# A drive of each kind and the engine of threads under memcheck. Wants valgrind.
valgrind:
    {{ valgrind_env }} CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='{{ memcheck }}' \
        cargo test -p zonal --test basics -- --test-threads=1
    {{ valgrind_env }} CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='{{ memcheck }}' \
        cargo test -p zonal --lib -- --test-threads=1 \
        engine:: sys:: buffer:: --skip uring --skip rings --skip polled

# What needs drives this machine has not, in a QEMU guest.
guest:
    guest/run

# The figures, against fio and qemu-img where they are installed.
bench *args:
    cargo bench -p zonal --bench figures -- {{ args }}

# The documentation, with broken links as errors.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
