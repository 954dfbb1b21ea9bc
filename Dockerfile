# nearhit in a small image: built with Rust's image, run on Debian's, as a numeric user without rights.
#
#   docker build -t nearhit .
#   docker run --rm -p 127.0.0.1:6380:6380 -e NEARHIT_UPSTREAM__URL=redis://HOST:6379 nearhit
#
# Builds with the classic builder as well as with BuildKit, hence no cache mounts.

FROM rust:1-bookworm AS build
WORKDIR /build
# The image carries no line tables (they stay available from a build outside); names in backtraces remain.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies are a layer of their own, compiled around an empty crate: it lasts until Cargo.toml or
# Cargo.lock change. Cargo insists that the benches and tests that Cargo.toml names exist, though nothing builds them
# here.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches tests \
 && echo 'fn main() {}' >src/main.rs \
 && touch src/lib.rs \
 && for kind in bench:benches test:tests; do \
      sed -n "/^.\[${kind%:*}\]/,/^\$/s/^name = .\(.*\)./\1/p" Cargo.toml \
      | while read -r name; do echo 'fn main() {}' >"${kind#*:}/$name.rs"; done; \
    done \
 && cargo build --release --locked --bin nearhit

# Cargo compares times of change, and the copied files are older than what was compiled from the empty ones.
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --bin nearhit

FROM debian:bookworm-slim
# The public certificate authorities, for an upstream behind TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/nearhit /usr/local/bin/
# The defaults, to be mounted over.
COPY proxy.toml /etc/nearhit/

# Loopback, the default, would be the container's own. Who reaches the port is decided by how it is published.
ENV NEARHIT_SERVER__LISTEN='["0.0.0.0:6380"]'
EXPOSE 6380
USER 65532:65532
STOPSIGNAL SIGTERM

# Whether the proxy answers at all, with whatever it has to say to a PING: a port that is merely open proves only
# that the kernel is well. The image has no client but bash. Override it where nearhit listens on another port.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD [ \
    "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/6380 && printf 'PING\\r\\n' >&3 && read -r -N 1 -t 2 <&3"]

ENTRYPOINT ["/usr/local/bin/nearhit"]
CMD ["--config", "/etc/nearhit/proxy.toml"]
