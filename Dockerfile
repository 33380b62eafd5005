# The program on a distroless base: no shell, no package manager, not root.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
# Cargo wants to see the targets that its manifest names.
RUN mkdir -p tests e2e benches/admission examples \
    && touch tests/suite.rs e2e/main.rs e2e/trials.rs benches/admission/main.rs examples/misbehave.rs \
    && cargo build --release --locked --bin lazaretto \
    && mkdir /out && cp target/release/lazaretto /out/lazaretto

FROM ${RUNTIME}
# e2e/image.sh puts a folder with a finished binary in the place of the build stage.
COPY --from=build /out/lazaretto /usr/local/bin/lazaretto
# By number, so that `runAsNonRoot` can check it: distroless' "nonroot" is 65532 as well.
USER 65532:65532
# Milliseconds for which memory that was given back stays with the program: the next burst of reviews takes it again.
ENV MIMALLOC_PURGE_DELAY=1000
EXPOSE 8443 8080
ENTRYPOINT ["/usr/local/bin/lazaretto"]
CMD ["serve"]
