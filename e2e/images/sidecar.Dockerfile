# Builds the image of the sidecar where there is a registry to take the base from:
#   docker build -f e2e/images/sidecar.Dockerfile -t ringmaster-sidecar .
# The embedded cluster makes the same image from local files instead, because it has no registry (own.ts, images.ts); images.test.ts compares.
# How to pin the base is said in ringmaster.Dockerfile.
ARG NODE_IMAGE=node:24.21.0-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /clone
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts
COPY e2e/images/program.ts e2e/images/strip.ts e2e/images/
COPY sidecar sidecar
# JavaScript, and of the packages only those that it imports.
RUN node e2e/images/program.ts --strip /app sidecar/main.ts sidecar/docker/main.ts sidecar/docker/cleanup.ts sidecar/templates.ts

# Has mkfifo and fallocate.
FROM ${NODE_IMAGE}
LABEL org.opencontainers.image.title="ringmaster-sidecar" \
      org.opencontainers.image.description="The sidecar of Ringmaster in the pods of Instances"
ENV NODE_ENV=production MALLOC_ARENA_MAX=1 UV_THREADPOOL_SIZE=2
WORKDIR /app
COPY --from=build /app ./
USER 65532
ENTRYPOINT ["/usr/local/bin/node", "--max-semi-space-size=1", "--v8-pool-size=1", "/app/sidecar/main.js"]
