/**
 * Replaces `@aws-sdk/credential-provider-node` in the bundles (`Alias` in template.yaml). Lambda
 * provides credentials in environment variables. The SDK's other providers (SSO, profiles, instance
 * metadata) would make up a quarter of each bundle.
 */
export { fromEnv as defaultProvider } from '@aws-sdk/credential-provider-env';
