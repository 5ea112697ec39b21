/** What the cluster is made of: its nodes, also for status pages, and the templates of the release. */
import type { RequestHandler, Response, Router } from 'express';
import type { Node } from '../../runtime/nodes.ts';
import type { NodeInfo } from '../nodes.ts';
import { toNodeInfos } from '../nodes.ts';
import type { Cached, InstanceDirectory } from '../ports.ts';
import type { Refusal } from '../refusal.ts';
import { badRequest, unavailable } from '../refusal.ts';
import type { Right } from '../reviews.ts';
import { isObjectName } from '../schemas.ts';
import type { TemplateMap } from '../templates.ts';
import { toTemplateInfos } from '../templates.ts';
import { addRoute, refusalFor, refuse } from './route.ts';

export interface ClusterRoutesOptions {
  readonly directory: InstanceDirectory;
  /** Absent: this Master has no right to read them. */
  readonly nodes?: Cached<Node> | undefined;
  readonly templates?: Cached<TemplateMap> | undefined;
  readonly releaseNamespace: string;
  /** The node that this replica runs on. */
  readonly nodeId: string;
}

const noNodes = unavailable(
  'Nodes are not shown here: this Master was given no right to read them (master.nodes.enabled)',
  60,
);
const nodesNotSynced = unavailable('The nodes are not known here yet', 1);
const nodeNotFound: Refusal = { status: 404, error: 'Node not found' };
const templatesNotSynced = unavailable('The templates are not known here yet', 1);

/** Node reads, which a PUBLIC key may do: `guard` lets it in. */
export function addNodeRoutes(router: Router, options: ClusterRoutesOptions, guard: RequestHandler): void {
  addRoute(
    router,
    { path: '/api/cluster/nodes', name: 'nodes', guard },
    {
      GET: async (_request, response) => {
        const nodes = await readNodes(options, response, { verb: 'list', resource: 'nodes' });
        if ('status' in nodes) refuse(response, nodes);
        else response.json(nodes.infos);
      },
    },
  );
  addRoute(
    router,
    { path: '/api/cluster/nodes/:id', name: 'node', guard },
    {
      GET: async (request, response) => {
        const { id } = request.params;
        if (typeof id !== 'string' || !isObjectName(id)) {
          refuse(response, badRequest('Malformed node id: it is the name of a node, in lower case'));
          return;
        }
        await answerNode(options, response, id);
      },
    },
  );
  addRoute(
    router,
    { path: '/api/node', name: 'own-node', guard },
    { GET: (_request, response) => answerNode(options, response, options.nodeId) },
  );
}

export function addTemplateRoutes(router: Router, { templates, releaseNamespace }: ClusterRoutesOptions): void {
  addRoute(
    router,
    { path: '/api/templates', name: 'templates' },
    {
      GET: async (_request, response) => {
        const right: Right = { verb: 'list', resource: 'configmaps', target: { namespace: releaseNamespace } };
        const refusal = await refusalFor(response, right);
        if (refusal !== undefined) refuse(response, refusal);
        else if (templates?.hasSynced !== true) refuse(response, templatesNotSynced);
        else response.json(toTemplateInfos(templates.list()));
      },
    },
  );
}

async function answerNode(options: ClusterRoutesOptions, response: Response, id: string): Promise<void> {
  const nodes = await readNodes(options, response, { verb: 'get', resource: 'nodes', target: { name: id } });
  const found = 'status' in nodes ? nodes : (nodes.infos.find((info) => info.id === id) ?? nodeNotFound);
  if ('error' in found) refuse(response, found);
  else response.json(found);
}

async function readNodes(
  { nodes, directory }: ClusterRoutesOptions,
  response: Response,
  right: Right,
): Promise<{ readonly infos: readonly NodeInfo[] } | Refusal> {
  const refusal = await refusalFor(response, right);
  if (refusal !== undefined) return refusal;
  if (nodes === undefined) return noNodes;
  return nodes.hasSynced ? { infos: toNodeInfos(nodes.list(), directory.list()) } : nodesNotSynced;
}
