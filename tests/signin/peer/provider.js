// oidc-provider by its documented defaults, for one client: node provider.js ISSUER-PORT REDIRECT-URI
// Whoever asks is signed in as the account that the query's login_hint names, without a page in between.
import { Provider } from "oidc-provider";

const [port, redirectUri, algorithm] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "imagetrove",
      client_secret: "a client's secret: with / and +",
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [new URL("/", redirectUri).href],
      id_token_signed_response_alg: algorithm,
    },
  ],
  clientAuthMethods: ["client_secret_basic"],
  jwks: { keys: JSON.parse(process.env.PEER_KEYS) },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["given_name", "family_name"] },
  features: { devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: true } },
  pkce: { required: () => true },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.edu`,
      email_verified: true,
      given_name: "Ada",
      family_name: "Lovelace",
    }),
  }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith("/interaction/")) return next();
  const { prompt, params, session } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === "login") {
    return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: "ada" } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const grantId = await grant.save();
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId } }, { mergeWithLastSubmission: true });
});

provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
