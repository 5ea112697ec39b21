# Builds the image of the operator and the Master where there is a registry to take the base from:
#   docker build -f e2e/images/ringmaster.Dockerfile -t ringmaster .
# The embedded cluster makes the same image from local files instead, because it has no registry (own.ts, images.ts); images.test.ts compares.
#
# Pin the base for a release, so that the same clone gives the same image. The digest of a tag, and its use:
#   docker buildx imagetools inspect node:24.21.0-slim --format '{{.Manifest.Digest}}'
#   docker build --build-arg NODE_IMAGE=node:24.21.0-slim@sha256:… …
ARG NODE_IMAGE=node:24.21.0-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /clone
COPY package.json package-lock.json .npmrc ./
# The base image brings Node, so the optional packages that would bring it again are left out.
RUN npm ci --omit=dev --omit=optional --ignore-scripts
COPY e2e/images/program.ts e2e/images/strip.ts e2e/images/
COPY operator operator
COPY sidecar sidecar
# What the two import, of our own modules and of the packages.
RUN node e2e/images/program.ts /app operator/main.ts operator/master.ts

FROM ${NODE_IMAGE}
LABEL org.opencontainers.image.title="ringmaster" \
      org.opencontainers.image.description="The operator and the Master of Ringmaster"
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app ./
USER 65532
ENTRYPOINT ["/usr/local/bin/node"]
CMD ["operator/main.ts"]
