{{/* What names begin with. */}}
{{- define "baton.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "component" NAME, "pool" POOL or none). What selectors match by. */}}
{{- define "baton.selector" -}}
app.kubernetes.io/name: baton
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
baton-pool: {{ .name }}
{{- end }}
{{- end -}}

{{/* Takes the same. Labels of objects and of pods. */}}
{{- define "baton.labels" -}}
{{ include "baton.selector" . }}
{{- with .pool }}
baton-role: {{ .role }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "repository" NAME "suffix" TEXT). */}}
{{- define "baton.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ .repository }}:{{ $tag }}{{ .suffix }}
{{- end -}}

{{/* Takes (dict "table" NAME "settings" MAP): one table of a settings file. JSON values are TOML values. */}}
{{- define "baton.toml" -}}
[{{ .table }}]
{{- range $key, $value := .settings }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end -}}

{{/* Takes (dict "table" NAME "content" MAP): a table whose values may be tables and lists of tables. */}}
{{- define "baton.nestedToml" -}}
{{- $table := .table -}}
[{{ $table }}]
{{- range $key, $value := .content }}
{{- if not (or (kindIs "map" $value) (kindIs "slice" $value)) }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- range $key, $value := .content }}
{{- if kindIs "map" $value }}
{{ include "baton.toml" (dict "table" (printf "%s.%s" $table $key) "settings" $value) }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
[{{ include "baton.toml" (dict "table" (printf "[%s.%s]" $table $key) "settings" .) | trimPrefix "[" }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The pools with the defaults of `workers` under each, as JSON. */}}
{{- define "baton.pools" -}}
{{- $pools := list -}}
{{- range .Values.pools -}}
{{- $pool := mustMergeOverwrite (deepCopy $.Values.workers) (deepCopy .) -}}
{{- $_ := set $pool "fullname" (printf "%s-%s" (include "baton.fullname" $) .name) -}}
{{- $_ := set $pool "kind" ($pool.workload | default (ternary "leaderworkerset" "deployment" (gt (int $pool.nodes) 1))) -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- $pools | toJson -}}
{{- end -}}

{{/* Addresses of all control planes: workers and gateways follow the one that leads. */}}
{{- define "baton.controlAddresses" -}}
{{- $name := printf "%s-control" (include "baton.fullname" .) -}}
{{- $addresses := list -}}
{{- range until (int .Values.control.replicas) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s-peers.%s.svc:8090" $name . $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end -}}

{{/* none, kubernetes or redis. */}}
{{- define "baton.election" -}}
{{- if eq .Values.control.election "auto" -}}
{{- ternary "kubernetes" "none" (gt (int .Values.control.replicas) 1) -}}
{{- else -}}
{{- .Values.control.election -}}
{{- end -}}
{{- end -}}

{{/* Not empty where the control plane scales a pool. */}}
{{- define "baton.controlScales" -}}
{{- range include "baton.pools" . | fromJsonArray -}}
{{- if eq .scaling.by "control" }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Not empty where the control plane calls the Kubernetes API. */}}
{{- define "baton.callsApiServer" -}}
{{- include "baton.controlScales" . -}}
{{- if eq (include "baton.election" .) "kubernetes" }}yes{{ end -}}
{{- end -}}

{{- define "baton.hasRedis" -}}
{{- if or .Values.redis.enabled .Values.redis.url .Values.redis.existingSecret }}yes{{ end -}}
{{- end -}}

{{- define "baton.gatewayUsesRedis" -}}
{{- if and .Values.gateway.shareLoads (include "baton.hasRedis" .) }}yes{{ end -}}
{{- end -}}

{{/* Not empty where API keys are in Redis. */}}
{{- define "baton.tenantsInRedis" -}}
{{- if eq .Values.auth.apiKeys "redis" }}yes{{ end -}}
{{- end -}}

{{/* Not empty where API keys are in a file. */}}
{{- define "baton.tenantsInFile" -}}
{{- if has .Values.auth.apiKeys (list "generated" "existingSecret") }}yes{{ end -}}
{{- end -}}

{{/* Not empty where the control plane elects a leader by Redis or keeps its state there. */}}
{{- define "baton.controlUsesRedis" -}}
{{- if or (eq (include "baton.election" .) "redis") (eq (get .Values.control.settings "state") "redis") }}yes{{ end -}}
{{- end -}}

{{- define "baton.redisSecret" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "baton.fullname" .)) -}}
{{- end -}}

{{- define "baton.tokensSecret" -}}
{{- .Values.auth.tokensSecret | default (printf "%s-tokens" (include "baton.fullname" .)) -}}
{{- end -}}

{{- define "baton.tenantsSecret" -}}
{{- ternary .Values.auth.existingSecret (printf "%s-api-key" (include "baton.fullname" .)) (eq .Values.auth.apiKeys "existingSecret") -}}
{{- end -}}

{{/* Takes (dict "name" VARIABLE "secret" NAME "key" KEY): one entry of env. */}}
{{- define "baton.secretEnv" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end -}}

{{/* By default Ray lets everybody who reaches its ports run code. */}}
{{- define "baton.rayTokenEnv" -}}
- {name: RAY_AUTH_MODE, value: token}
{{ include "baton.secretEnv" (dict "name" "RAY_AUTH_TOKEN" "secret" (include "baton.tokensSecret" .) "key" "cluster-token") }}
{{- end -}}

{{- define "baton.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.securityContext.runAsUser }}
runAsGroup: {{ int .Values.securityContext.runAsGroup }}
fsGroup: {{ int .Values.securityContext.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Takes a list of capabilities. */}}
{{- define "baton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: {{ toJson . }}
  {{- end }}
{{- end -}}

{{/* Takes (dict "labels" SELECTOR "list" SPREADS). */}}
{{- define "baton.topologySpread" -}}
{{- if .list }}
topologySpreadConstraints:
  {{- range .list }}
  - topologyKey: {{ .topologyKey }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    maxSkew: {{ int .maxSkew }}
    labelSelector:
      matchLabels: {{- $.labels | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "at" VALUES of the part): where pods may run, and from whom images come. */}}
{{- define "baton.placement" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .at.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .at.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Seconds that a gateway needs at most from being asked to end. */}}
{{- define "baton.gatewayGrace" -}}
{{- $needed := add (int .Values.gateway.preStopSeconds) (int .Values.gateway.drainSeconds) 10 -}}
{{- include "baton.grace" (dict "what" "gateway" "needed" $needed "given" .Values.gateway.terminationGracePeriodSeconds "sum" "preStopSeconds + drainSeconds + 10") -}}
{{- end -}}

{{/* Takes a pool. Blocks that it published outlive its drain by a lease. */}}
{{- define "baton.workerGrace" -}}
{{- $needed := add (int .preStopSeconds) (int (ceil .drainSeconds)) (int (ceil .leaseSeconds)) 15 -}}
{{- include "baton.grace" (dict "what" (printf "pool %s" .name) "needed" $needed "given" .terminationGracePeriodSeconds "sum" "preStopSeconds + drainSeconds + leaseSeconds + 15") -}}
{{- end -}}

{{- define "baton.grace" -}}
{{- $given := .given | default (add .needed 5) | int -}}
{{- if le $given (int .needed) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds is %d and must be above %s = %d" .what $given .sum (int .needed)) -}}
{{- end -}}
{{- $given -}}
{{- end -}}

{{/* Names of host-independent folders. */}}
{{- define "baton.modelPath" -}}
{{- if eq .Values.model.source "bundled" -}}
/opt/baton/demo_model
{{- else -}}
/models/model{{ with .Values.model.path }}/{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "baton.modelVolume" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ required "model.pvc.claimName is needed for model.source pvc" $model.pvc.claimName }}
    readOnly: true
{{- else if eq $model.source "hostPath" }}
- name: model
  hostPath:
    path: {{ required "model.hostPath.path is needed for model.source hostPath" $model.hostPath.path }}
    type: Directory
{{- else if eq $model.source "image" }}
- name: model
  image:
    reference: {{ required "model.image.reference is needed for model.source image" $model.image.reference }}
    pullPolicy: {{ $model.image.pullPolicy }}
{{- else if eq $model.source "download" }}
- name: model
  emptyDir: {sizeLimit: {{ $model.download.sizeLimit }}}
{{- end }}
{{- end -}}

{{- define "baton.modelMount" -}}
{{- if ne .Values.model.source "bundled" }}
- {name: model, mountPath: /models/model, readOnly: true}
{{- end }}
{{- end -}}

{{/* The init container that fetches the model's files. */}}
{{- define "baton.modelDownload" -}}
{{- if eq .Values.model.source "download" }}
{{- $download := .Values.model.download }}
initContainers:
  - name: download-model
    image: {{ $download.image }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command:
      - curl
      - --fail
      - --fail-early
      - --location
      - --silent
      - --show-error
      - --retry
      - "8"
      - --retry-all-errors
      - --create-dirs
      {{- if $download.tokenSecret }}
      - --oauth2-bearer
      - $(MODEL_TOKEN)
      {{- end }}
      {{- $base := required "model.download.baseUrl is needed for model.source download" $download.baseUrl | trimSuffix "/" }}
      {{- if not $download.files }}{{ fail "model.download.files is needed for model.source download" }}{{ end }}
      {{- $folder := include "baton.modelPath" . }}
      {{- range $download.files }}
      - --output
      - {{ printf "%s/%s" $folder . | quote }}
      - {{ printf "%s/%s" $base . | quote }}
      {{- end }}
    {{- if $download.tokenSecret }}
    env:
      {{- include "baton.secretEnv" (dict "name" "MODEL_TOKEN" "secret" $download.tokenSecret "key" $download.tokenKey) | nindent 6 }}
    {{- end }}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {memory: 512Mi}
    securityContext: {{- include "baton.containerSecurity" list | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: /models/model}
{{- end }}
{{- end -}}

{{/* Takes a URL: its port, or that of its scheme. */}}
{{- define "baton.urlPort" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $known := dict "https" "443" "http" "80" "redis" "6379" "rediss" "6379" -}}
{{- $port | default (get $known $url.scheme) -}}
{{- end -}}
