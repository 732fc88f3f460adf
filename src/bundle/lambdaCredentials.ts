/**
 * Replaces `@aws-sdk/credential-provider-node` in the bundles (`Alias` in template.yaml). Lambda puts
 * credentials into the environment. The SDK's other providers (SSO, profiles, instance metadata)
 * would be a quarter of each bundle.
 */
export { fromEnv as defaultProvider } from '@aws-sdk/credential-provider-env';
