# Builds the image of the operator and the Master where there is a registry to take the base from:
#   docker build -f e2e/images/ringmaster.Dockerfile -t ringmaster .
# The embedded cluster makes the same image from local files instead (images.ts), because it has no registry: the same paths, user,
# working directory and entrypoint. Change both together.
FROM node:24-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The base image brings Node, so the optional packages that would bring it again are left out.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY package.json ./
COPY operator ./operator
USER 65532
ENTRYPOINT ["/usr/local/bin/node"]
CMD ["operator/main.ts"]
